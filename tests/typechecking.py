"""The checker behind the shape annotations while the tests run.

Like a static type checker it accepts an int where a float is annotated.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

"""Numbers that other libraries state in their own tests, met with their window and border.

- kornia, tests/filters/test_bilateral.py: 4 x 4 images filtered by OpenCV, 5 x 5, sigma 0.5, 0.1.
- MONAI, tests/networks/layers/filtering: test_bilateral_precise.py, where outside pixels repeat
  the edge; test_trainable_bilateral.py and test_trainable_joint_bilateral.py, where they do not
  count. Windows are (5 sigma) | 1 wide; numbers have six digits and a stated tolerance of 1e-5.
"""

import pytest
import torch
from helpers import assert_close

from torchops import bilateral_filter

STATED = 1e-5

ENDS = [1, 0, 0, 0, 1]
MIDDLE = [0, 0, 1, 0, 0]
BLANK = [0] * 5
CORNERS = [ENDS, BLANK, BLANK, BLANK, ENDS]
CENTRE = [BLANK, BLANK, MIDDLE, BLANK, BLANK]


def tensor(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def unfolded(*shape, values):
    """A symmetric array from its distinct entries, named by sorted distances from the centre."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1)
    distances = (grid - torch.tensor(shape) // 2).abs().sort(-1, descending=True).values
    keys = ["".join(str(int(d)) for d in row) for row in distances.reshape(-1, len(shape))]
    return tensor([values[key] for key in keys]).reshape(shape)


def window(sigma):
    return (int(5 * sigma) | 1) // 2


def check(image, sigma_space, sigma_range, expected, **options):
    found = bilateral_filter(
        tensor(image), sigma_space, sigma_range, radius=window(sigma_space), **options
    )
    assert_close(found, expected if torch.is_tensor(expected) else tensor(expected), STATED)


GRAY = [[95, 130, 108, 228], [98, 142, 187, 166], [114, 166, 190, 141], [150, 83, 174, 216]]
GRAY_GUIDE = [[161, 87, 93, 6], [91, 182, 97, 154], [70, 123, 109, 70], [119, 28, 60, 109]]
RGB = [
    [[170, 189, 182, 255], [169, 209, 216, 215], [196, 213, 228, 191], [207, 126, 224, 249]],
    [[61, 104, 74, 225], [65, 112, 176, 148], [78, 147, 176, 120], [124, 61, 155, 211]],
    [[73, 111, 90, 175], [77, 117, 163, 130], [83, 139, 163, 120], [132, 84, 137, 155]],
]
RGB_GUIDE = [
    [[136, 196, 198, 21], [149, 185, 196, 141], [115, 110, 87, 155], [126, 82, 109, 207]],
    [[188, 42, 48, 0], [73, 200, 58, 173], [53, 140, 130, 34], [129, 3, 41, 73]],
    [[85, 36, 51, 0], [33, 82, 37, 87], [35, 70, 57, 36], [50, 10, 30, 43]],
]
BY_OPENCV = {
    "gray": (
        GRAY,
        None,
        [
            [0.38708255, 0.5060622, 0.43372786, 0.8876763],
            [0.39813757, 0.55695623, 0.72320986, 0.6593296],
            [0.4527661, 0.6484203, 0.7295754, 0.5705908],
            [0.5774919, 0.32919288, 0.6949335, 0.83184093],
        ],
    ),
    "RGB": (
        RGB,
        None,
        [
            [
                [0.6658919, 0.7486991, 0.7140039, 0.9999949],
                [0.6656203, 0.815614, 0.852062, 0.84256846],
                [0.7658699, 0.83580506, 0.88873357, 0.7496973],
                [0.8123873, 0.49414372, 0.87789816, 0.97619873],
            ],
            [
                [0.24242306, 0.40987095, 0.29138556, 0.8823465],
                [0.2543548, 0.43856043, 0.68934506, 0.58119816],
                [0.3045888, 0.5758538, 0.6885629, 0.47137713],
                [0.48865014, 0.23922202, 0.6099074, 0.82698977],
            ],
            [
                [0.28948042, 0.43686634, 0.35377124, 0.686273],
                [0.30078027, 0.4582056, 0.63826954, 0.5113827],
                [0.32491508, 0.5446742, 0.63721484, 0.47087318],
                [0.51836246, 0.32941142, 0.5409612, 0.60793126],
            ],
        ],
    ),
    "gray, guided": (
        GRAY,
        GRAY_GUIDE,
        [
            [0.38221005, 0.5027215, 0.49131155, 0.8937083],
            [0.3976327, 0.55548316, 0.69680846, 0.65291953],
            [0.44903287, 0.65470666, 0.7295845, 0.5840189],
            [0.5867507, 0.3472942, 0.66494286, 0.81431836],
        ],
    ),
    "RGB, guided": (
        RGB,
        RGB_GUIDE,
        [
            [
                [0.6671455, 0.74172455, 0.7328562, 1.0],
                [0.66403687, 0.81948805, 0.8357967, 0.8431371],
                [0.7673652, 0.836736, 0.8925936, 0.7494889],
                [0.8120746, 0.49431974, 0.8778994, 0.9764218],
            ],
            [
                [0.23984201, 0.40574068, 0.35012922, 0.88235295],
                [0.2555589, 0.43905944, 0.65692204, 0.58039117],
                [0.30529743, 0.5791127, 0.68724936, 0.47124338],
                [0.48745763, 0.23940866, 0.6072882, 0.82737976],
            ],
            [
                [0.2868149, 0.43398118, 0.39570162, 0.6862745],
                [0.30228183, 0.45868847, 0.6153678, 0.50980365],
                [0.3252297, 0.5474381, 0.6367775, 0.47098273],
                [0.51799667, 0.32952034, 0.53696644, 0.6078228],
            ],
        ],
    ),
}


@pytest.mark.parametrize("name", BY_OPENCV)
def test_opencv_as_kornia_states_it(name):
    image, guide, expected = (None if x is None else tensor(x) for x in BY_OPENCV[name])
    if image.ndim == 2:
        image, expected = image[None], expected[None]
        guide = None if guide is None else guide[None]
    found = bilateral_filter(
        image / 255,
        0.5,
        0.1,
        radius=2,
        window="disc" if guide is None else "square",  # which OpenCV's guided filter has
        distance="l1",
        guide=None if guide is None else guide / 255,
    )
    assert_close(found, expected, 5e-7)  # stated in float32


@pytest.mark.parametrize(
    ("sigmas", "ends", "middle"),
    [
        (
            (1, 0.2),
            [0.999998, 0.000002, 0.000000, 0.000002, 0.999998],
            [0.000000, 0.000001, 0.999995, 0.000001, 0.000000],
        ),
        (
            (1, 0.9),
            [0.813183, 0.186817, 0.061890, 0.186817, 0.813183],
            [0.030148, 0.148418, 0.555452, 0.148418, 0.030148],
        ),
        (
            (4, 0.2),
            [0.999999, 0.000009, 0.000009, 0.000009, 0.999999],
            [0.000000, 0.000000, 0.999967, 0.000000, 0.000000],
        ),
        (
            (4, 0.9),
            [0.839145, 0.572834, 0.562460, 0.572834, 0.839145],
            [0.049925, 0.055062, 0.171732, 0.055062, 0.049925],
        ),
    ],
)
def test_monai_signals(sigmas, ends, middle):
    expected = [[ends], [middle]]
    check([[ENDS], [MIDDLE]], *sigmas, expected, border="replicate", spatial_dims=1)


FOUR_SIGNALS = [[1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]]


def test_monai_signals_of_four_channels():
    first = [0.889742, 0.141296, 0.027504, 0.000000, 0.000000]
    second = [0.909856, 0.256817, 0.725970, 0.115520, 0.020114]
    expected = [first, second, second[::-1], first[::-1]]
    check(FOUR_SIGNALS, 1, 0.9, expected, border="replicate", spatial_dims=1)


def test_monai_images():
    corners = {
        "22": 0.688943, "21": 0.374599, "20": 0.368574, "11": 0.358248, "10": 0.352546,
        "00": 0.346955,
    }  # fmt: skip
    centre = {
        "22": 0.004266, "21": 0.004687, "20": 0.004836, "11": 0.005150, "10": 0.005314,
        "00": 0.018598,
    }  # fmt: skip
    expected = torch.stack([unfolded(5, 5, values=v)[None] for v in (corners, centre)])
    check([[CORNERS], [CENTRE]], 4, 0.9, expected, border="replicate")


def test_monai_images_of_four_channels():
    rows = [BLANK] * 3
    image = [[a, *rows, b] for a, b in zip(FOUR_SIGNALS, FOUR_SIGNALS[::-1], strict=True)]
    first = tensor(
        [
            [0.692549, 0.149979, 0.220063, 0.115840, 0.035799],
            [0.148403, 0.133935, 0.123253, 0.116828, 0.114623],
            [0.128773, 0.122804, 0.120731, 0.122804, 0.128773],
            [0.114623, 0.116828, 0.123253, 0.133935, 0.148403],
            [0.035799, 0.115840, 0.220063, 0.149979, 0.692549],
        ]
    )
    second = tensor(
        [
            [0.731597, 0.186319, 0.436069, 0.152181, 0.074847],
            [0.180049, 0.168217, 0.158453, 0.151110, 0.146269],
            [0.159760, 0.156381, 0.155211, 0.156381, 0.159760],
            [0.146269, 0.151110, 0.158453, 0.168217, 0.180049],
            [0.074847, 0.152181, 0.436068, 0.186319, 0.731597],
        ]
    )
    expected = torch.stack([first, second, second.flip(-1), first.flip(-1)])
    check(image, 4, 0.9, expected, border="replicate")


VOLUME = [[CORNERS, [BLANK] * 5, [BLANK] * 5, [BLANK] * 5, CORNERS]]


def test_monai_volumes():
    values = {
        "222": 0.554430, "221": 0.254996, "220": 0.251207, "211": 0.244692, "210": 0.241082,
        "200": 0.237534, "111": 0.234873, "110": 0.231432, "100": 0.228049, "000": 0.224724,
    }  # fmt: skip
    expected = unfolded(5, 5, 5, values=values)[None]
    check(VOLUME, 4, 0.9, expected, border="replicate", spatial_dims=3)


@pytest.mark.parametrize(
    ("sigmas", "ends", "middle"),
    [
        (
            (1, 0.2),
            [0.999997, 0.000001, 0.000000, 0.000001, 0.999997],
            [0.000000, 0.000001, 0.999995, 0.000001, 0.000000],
        ),
        (
            (1, 0.9),
            [0.714200, 0.158126, 0.061890, 0.158126, 0.714200],
            [0.043465, 0.158126, 0.555452, 0.158126, 0.043465],
        ),
        (
            (4, 0.2),
            [0.999994, 0.000002, 0.000002, 0.000002, 0.999994],
            [0.000001, 0.000001, 0.999986, 0.000001, 0.000001],
        ),
        (
            (4, 0.9),
            [0.533282, 0.245915, 0.244711, 0.245915, 0.533282],
            [0.125052, 0.126608, 0.333592, 0.126608, 0.125052],
        ),
    ],
)
def test_monai_trainable_signals(sigmas, ends, middle):
    expected = [[ends], [middle]]
    check([[ENDS], [MIDDLE]], *sigmas, expected, border="valid_only", spatial_dims=1)


def test_monai_trainable_images():
    corners = {
        "22": 0.239789, "21": 0.082990, "20": 0.082630, "11": 0.081934, "10": 0.081579,
        "00": 0.081225,
    }  # fmt: skip
    centre = {
        "22": 0.024155, "21": 0.024432, "20": 0.024525, "11": 0.024712, "10": 0.024806,
        "00": 0.080686,
    }  # fmt: skip
    expected = torch.stack([unfolded(5, 5, values=v)[None] for v in (corners, centre)])
    check([[CORNERS], [CENTRE]], 4, 0.9, expected, border="valid_only")


def test_monai_trainable_volumes():
    values = {
        "222": 0.098142, "221": 0.030317, "220": 0.030191, "211": 0.029947, "210": 0.029822,
        "200": 0.029698, "111": 0.029581, "110": 0.029458, "100": 0.029336, "000": 0.029214,
    }  # fmt: skip
    expected = unfolded(5, 5, 5, values=values)[None]
    check(VOLUME, 4, 0.9, expected, border="valid_only", spatial_dims=3)


@pytest.mark.parametrize(
    ("sigmas", "first", "second"),
    [
        (
            (1, 0.2),
            [0.622459, 0.377540, 0.000001, 0.000001, 0.999997],
            [0.000000, 0.000001, 0.880793, 0.000002, 0.119203],
        ),
        (
            (1, 0.9),
            [0.595404, 0.302253, 0.070203, 0.163038, 0.714200],
            [0.043465, 0.158126, 0.536864, 0.182809, 0.092537],
        ),
        (
            (4, 0.2),
            [0.623709, 0.632901, 0.000003, 0.000003, 0.680336],
            [0.000001, 0.000001, 0.531206, 0.000001, 0.468788],
        ),
        (
            (4, 0.9),
            [0.464455, 0.463098, 0.276430, 0.275530, 0.478105],
            [0.134956, 0.138247, 0.293759, 0.141954, 0.281082],
        ),
    ],
)
def test_monai_guided_signals(sigmas, first, second):
    check(
        [[ENDS], [MIDDLE]],
        *sigmas,
        [[first], [second]],
        guide=tensor([[[1, 1, 0, 0, 1]], [[0, 0, 1, 0, 1]]]),
        border="valid_only",
        spatial_dims=1,
    )


def test_monai_guided_images():
    guide = [
        [[[1, 1, 0, 0, 1], [0, 0, 0, 1, 0], [1, 1, 0, 0, 0], BLANK, [0, 1, 0, 0, 1]]],
        [[[0, 0, 0, 1, 0], [0, 0, 0, 1, 1], BLANK, BLANK, [1, 0, 0, 0, 0]]],
    ]
    expected = [
        [
            [
                [0.186535, 0.187357, 0.105377, 0.103652, 0.198665],
                [0.112617, 0.108847, 0.105970, 0.189602, 0.102954],
                [0.178338, 0.179829, 0.107473, 0.105256, 0.103963],
                [0.117651, 0.113304, 0.109876, 0.107392, 0.105853],
                [0.121557, 0.177689, 0.113150, 0.110388, 0.192877],
            ]
        ],
        [
            [
                [0.047156, 0.047865, 0.048233, 0.038611, 0.047911],
                [0.047607, 0.048292, 0.048633, 0.039251, 0.038611],
                [0.047715, 0.048369, 0.048678, 0.048633, 0.048233],
                [0.047477, 0.048094, 0.048369, 0.048292, 0.047865],
                [0.039190, 0.047477, 0.047715, 0.047607, 0.047156],
            ]
        ],
    ]
    check([[CORNERS], [CENTRE]], 4, 0.9, expected, guide=tensor(guide), border="valid_only")


def test_monai_guided_volumes():
    plain = [BLANK] * 5
    guide = [
        [
            [[1, 1, 0, 0, 1], BLANK, BLANK, BLANK, [0, 1, 0, 0, 1]],
            plain,
            plain,
            plain,
            [[1, 1, 0, 1, 1], BLANK, BLANK, BLANK, [1, 0, 0, 1, 1]],
        ]
    ]
    expected = [
        [
            [
                [0.089316, 0.088903, 0.033707, 0.033461, 0.091881],
                [0.035173, 0.034324, 0.033747, 0.033448, 0.033427],
                [0.035619, 0.034710, 0.034074, 0.033720, 0.033646],
                [0.036364, 0.035387, 0.034688, 0.034275, 0.034148],
                [0.037401, 0.085687, 0.035583, 0.035109, 0.089741],
            ],
            [
                [0.034248, 0.033502, 0.033023, 0.032816, 0.032881],
                [0.034339, 0.033546, 0.033020, 0.032767, 0.032785],
                [0.034721, 0.033876, 0.033298, 0.032994, 0.032965],
                [0.035397, 0.034490, 0.033856, 0.033501, 0.033424],
                [0.036357, 0.035383, 0.034688, 0.034279, 0.034155],
            ],
            [
                [0.033748, 0.033047, 0.032609, 0.032441, 0.032541],
                [0.033782, 0.033041, 0.032562, 0.032353, 0.032410],
                [0.034104, 0.033316, 0.032792, 0.032538, 0.032554],
                [0.034714, 0.033872, 0.033298, 0.032998, 0.032972],
                [0.035604, 0.034702, 0.034074, 0.033727, 0.033660],
            ],
            [
                [0.033533, 0.032871, 0.032471, 0.032340, 0.032476],
                [0.033511, 0.032815, 0.032380, 0.032212, 0.032310],
                [0.033775, 0.033037, 0.032562, 0.032356, 0.032417],
                [0.034324, 0.033539, 0.033020, 0.032774, 0.032799],
                [0.035151, 0.034313, 0.033747, 0.033459, 0.033449],
            ],
            [
                [0.091383, 0.090681, 0.032608, 0.091418, 0.092851],
                [0.033525, 0.032867, 0.032471, 0.032344, 0.032483],
                [0.033733, 0.033039, 0.032609, 0.032448, 0.032555],
                [0.034226, 0.033491, 0.033023, 0.032827, 0.032903],
                [0.089445, 0.034216, 0.033707, 0.090126, 0.091748],
            ],
        ]
    ]
    check(VOLUME, 4, 0.9, expected, guide=tensor(guide), border="valid_only", spatial_dims=3)

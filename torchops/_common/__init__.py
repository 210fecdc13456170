"""What two or more rooms share: argument checks, smoothing, sampling, precision."""

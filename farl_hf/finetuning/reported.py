"""
What the authors report, in percent (README, leaderboards and `logs/**.tsv` of the FaRL repository), all after full
fine-tuning at 448 px. "Best" is the epoch that is best on the test set, which is what the paper prints.
"""

# The columns of every row.
RUNS = ("paper (ep16, best on test)", "ep16, last epoch", "ep64, best on test", "ep64, last epoch")

Row = tuple[float | None, float | None, float | None, float | None]

_LAPA: dict[str, Row] = {
    "background": (99.246, 99.198, 99.278, 99.22),
    "skin": (98.0, 97.962, 98.035, 97.979),
    "right eyebrow": (92.697, 92.706, 92.761, 92.634),
    "left eyebrow": (92.651, 92.659, 92.838, 92.668),
    "right eye": (93.973, 93.931, 94.086, 94.025),
    "left eye": (93.912, 93.813, 94.1, 93.843),
    "nose": (97.918, 97.898, 97.992, 97.931),
    "upper lip": (90.149, 90.021, 90.451, 90.303),
    "inner mouth": (91.742, 91.671, 91.977, 91.669),
    "lower lip": (91.214, 91.164, 91.541, 91.532),
    "hair": (96.524, 96.321, 96.656, 96.404),
    "fg_mean": (93.878, 93.815, 94.044, 93.899),
}
_CELEBAMASK_HQ: dict[str, Row] = {
    "background": (96.897, 96.721, 96.898, 96.709),
    "neck": (92.45, 92.233, 92.537, 92.175),
    "skin": (96.741, 96.558, 96.736, 96.558),
    "clothes": (91.307, 90.42, 91.227, 90.252),
    "right ear": (89.464, 88.908, 89.312, 88.909),
    "left ear": (89.057, 88.519, 89.138, 88.613),
    "right eyebrow": (87.136, 86.069, 87.114, 86.042),
    "left eyebrow": (87.034, 85.925, 86.99, 85.792),
    "right eye": (90.557, 89.929, 90.558, 89.931),
    "left eye": (90.709, 90.062, 90.768, 90.028),
    "nose": (94.219, 93.83, 94.141, 93.873),
    "inner mouth": (92.803, 92.178, 92.907, 92.343),
    "lower lip": (91.382, 90.691, 91.5, 90.806),
    "upper lip": (90.174, 89.324, 90.221, 89.403),
    "hair": (96.197, 95.957, 96.167, 95.934),
    "eyeglasses": (95.367, 95.384, 95.586, 95.339),
    "hat": (92.085, 90.663, 90.922, 90.066),
    "earring": (75.718, 74.569, 76.737, 74.66),
    "necklace": (69.715, 66.023, 69.775, 63.644),
    "fg_mean": (89.562, 88.736, 89.574, 88.576),
}
_WFLW: dict[str, dict[str, Row]] = {
    "all": {
        "inter_ocular": (3.964, 3.98, 3.882, 4.048),
        "fr_inter_ocular_10": (1.76, 1.84, 1.44, 1.88),
        "auc_inter_ocular_10": (61.161, 60.877, 61.52, 60.263),
    },
    "test_largepose": {
        "inter_ocular": (6.914, 6.74, 6.539, 6.833),
        "fr_inter_ocular_10": (9.816, 9.816, 7.362, 8.896),
        "auc_inter_ocular_10": (35.843, 36.761, 36.639, 36.283),
    },
    "test_expression": {
        "inter_ocular": (4.206, 4.23, 4.091, 4.239),
        "fr_inter_ocular_10": (2.548, 2.548, 1.911, 2.229),
        "auc_inter_ocular_10": (58.797, 58.516, 59.369, 58.112),
    },
    "test_illumination": {
        "inter_ocular": (3.966, 3.935, 3.775, 4.033),
        "fr_inter_ocular_10": (1.433, 1.576, 1.289, 1.433),
        "auc_inter_ocular_10": (61.773, 61.812, 62.553, 61.042),
    },
    "test_makeup": {
        "inter_ocular": (3.8, 3.796, 3.781, 3.907),
        "fr_inter_ocular_10": (1.456, 1.456, 0.971, 0.971),
        "auc_inter_ocular_10": (62.189, 62.388, 62.561, 61.524),
    },
    "test_occlusion": {
        "inter_ocular": (4.71, 4.71, 4.547, 4.832),
        "fr_inter_ocular_10": (3.261, 3.668, 2.853, 3.804),
        "auc_inter_ocular_10": (54.987, 54.659, 55.325, 53.808),
    },
    "test_blur": {
        "inter_ocular": (4.571, 4.566, 4.383, 4.636),
        "fr_inter_ocular_10": (2.717, 2.329, 1.94, 2.458),
        "auc_inter_ocular_10": (56.063, 55.785, 56.634, 55.163),
    },
}

# Subset -> score -> one number per run.
REPORTED: dict[str, dict[str, dict[str, Row]]] = {
    "lapa": {"all": _LAPA},
    "celebamask_hq": {"all": _CELEBAMASK_HQ},
    "ibug300w": {
        "all": {"inter_ocular": (2.927, 2.944, 2.884, 2.927), "inter_pupil": (4.108, 4.131, None, None)},
        "test_common": {"inter_ocular": (2.555, 2.57, 2.496, 2.553), "inter_pupil": (3.544, 3.564, None, None)},
        "test_challenging": {"inter_ocular": (4.451, 4.476, 4.476, 4.461), "inter_pupil": (6.422, 6.459, None, None)},
    },
    "wflw": _WFLW,
    "aflw19": {
        "all": {
            "diag": (0.943, 1.0, 0.938, 0.984),
            "box": (1.334, 1.415, 1.327, 1.391),
            "auc_box_7": (81.34, 80.228, 81.453, 80.548),
            "fr_box_7": (0.137, 0.16, 0.16, 0.16),
            "inter_ocular": (3.968, 4.254, 3.943, 4.15),
            "inter_pupil": (5.96, 6.389, 5.919, 6.225),
        },
        "test_frontal": {"diag": (0.821, 0.864, 0.818, 0.858), "box": (1.161, 1.222, 1.157, 1.21)},
    },
    # facer's released file; neither a paper's nor a log's number of an epoch.
    "celeba": {"all": {"mean": (None, 92.066, None, None)}},
}

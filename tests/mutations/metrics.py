"""Mistakes in the metrics and in the published numbers beside them."""

from . import Mutation

LANDMARKS = "farl_hf/metrics/landmarks.py"
PARSING = "farl_hf/metrics/parsing.py"
TESTS = ("tests/test_metrics.py",)

MUTATIONS = [
    Mutation(LANDMARKS, '"inter_ocular": ([36], [45])', '"inter_ocular": ([39], [42])', TESTS),
    Mutation(LANDMARKS, '([60], [72]), "inter_pupil"', '([64], [68]), "inter_pupil"', TESTS),
    Mutation(LANDMARKS, "return np.sqrt(width**2 + height**2)", "return np.sqrt(width * height)", TESTS),
    Mutation(LANDMARKS, '"aflw19": ("box", 0.07, "7")', '"aflw19": ("diag", 0.07, "7")', TESTS),
    Mutation(LANDMARKS, "np.arange(0.0, threshold + step, step)", "np.arange(0.0, threshold + step / 2, step)", TESTS),
    Mutation(LANDMARKS, 'side="right")', 'side="left")', TESTS),
    Mutation(LANDMARKS, "106: (66, 79)", "106: (70, 75)", TESTS),
    Mutation(PARSING, 'if name != "background" and not', "if not", TESTS),
    Mutation(PARSING, "2 * hits, total", "hits, total - hits", TESTS),
    Mutation("farl_hf/metrics/attributes.py", "(references > 0)", "(references >= 0)", TESTS),
    Mutation(
        "farl_hf/finetuning/reported.py",
        '"fg_mean": (93.878,',
        '"fg_mean": (98.378,',
        ("tests/finetuning/test_recipes.py",),
    ),
]

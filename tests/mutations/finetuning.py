"""Mistakes in recipes, augmentation, averaged weights, choice of weights, and what a run checks."""

from . import Mutation

AUGMENTATION = "farl_hf/finetuning/augmentation.py"
BENCHMARKS = "farl_hf/finetuning/benchmarks.py"
EMA = "farl_hf/finetuning/ema.py"
FACES = "farl_hf/finetuning/faces.py"
OPTIMIZER = "farl_hf/finetuning/optimizer.py"
PREPARATION = "farl_hf/finetuning/preparation.py"
RECIPES = "farl_hf/finetuning/recipes.py"
RESULTS = "farl_hf/finetuning/results.py"
RESUMING = "farl_hf/finetuning/resuming.py"
TASKS = "farl_hf/finetuning/tasks.py"
TRAINER = "farl_hf/finetuning/trainer.py"

_TABLE = "tests/finetuning/test_recipes.py"
BENCHMARK = (f"{_TABLE}::test_benchmarks_are_the_originals",)
PAPER = (f"{_TABLE}::test_paper_recipe",)
SCHEDULE = (f"{_TABLE}::test_paper_schedule_is_constant_and_a_tenth_from_epoch_200_on",)
FLAGS = (f"{_TABLE}::test_flags_of_training_arguments_are_obeyed",)
WARM_UP = (f"{_TABLE}::test_average_warms_up",)
JITTER = (f"{_TABLE}::test_geometric_jitter_has_the_specified_distributions",)
_PICTURES = "tests/finetuning/test_augmentation.py"
PARSING_CROP = (f"{_PICTURES}::test_parsing_crops_are_the_references",)
ALIGNMENT_CROP = (f"{_PICTURES}::test_alignment_crops_are_the_references",)
MIRRORED = (f"{_PICTURES}::test_mirrored_faces",)
NEAREST = (f"{_PICTURES}::test_labels_are_read_at_the_nearest_pixel",)
_RUNNING = "tests/finetuning/test_running.py"
HELD_OUT = (f"{_RUNNING}::test_held_out_faces_are_not_trained_on",)
FEW = (f"{_RUNNING}::test_few_labels_are_few_for_the_choice_too",)
BEST = (f"{_RUNNING}::test_best_weights_are_saved_and_both_are_reported",)
LOG = (f"{_RUNNING}::test_best_and_last_of_a_log",)
OWN_SETTINGS = (f"{_RUNNING}::test_a_run_goes_on_with_its_own_settings_only",)
CHECKED = (f"{_RUNNING}::test_what_a_run_will_need_is_checked_before_its_first_step",)

MUTATIONS = [
    # The table of specified values.
    Mutation(AUGMENTATION, "rotation=0.314", "rotation=0.0314", JITTER),
    Mutation(AUGMENTATION, "rotation=0.174", "rotation=0.349", JITTER),
    Mutation(AUGMENTATION, "scale=0.1, gaussian=True", "scale=0.1, gaussian=False", JITTER),
    Mutation(AUGMENTATION, "/ config.scale_mean", "* config.scale_mean", JITTER),
    Mutation(AUGMENTATION, "config.shift, 2) * size", "config.shift, 2) * size / 2", JITTER),
    Mutation(AUGMENTATION, "occlusion=True, noise=0.5", "occlusion=True, noise=0.0", JITTER),
    Mutation(AUGMENTATION, "scale_mean=0.8, occlusion=True", "scale_mean=0.8, occlusion=False", JITTER),
    Mutation(BENCHMARKS, "milestone: int = 200", "milestone: int = 20", BENCHMARK),
    Mutation(
        BENCHMARKS, "short_epochs=60,\n            **_PARSING", "short_epochs=6,\n            **_PARSING", BENCHMARK
    ),
    Mutation(
        BENCHMARKS,
        '{"augmentation": ALIGNMENT_AUGMENTATION, "head_lr": 1e-2}',
        '{"augmentation": ALIGNMENT_AUGMENTATION, "head_lr": 1e-3}',
        BENCHMARK,
    ),
    Mutation(BENCHMARKS, '"warp_factor": 0.8', '"warp_factor": 0.6', BENCHMARK),
    Mutation(OPTIMIZER, "gamma=0.1", "gamma=0.9", SCHEDULE),
    Mutation(RECIPES, "_BACKBONE_LR = 1e-4", "_BACKBONE_LR = 1e-2", PAPER),
    Mutation(RECIPES, "_PAPER_SCHEDULE if paper else", '"cosine" if paper else', PAPER),
    Mutation(RECIPES, "arguments.lr_scheduler_type != _PAPER_SCHEDULE", "False", FLAGS),
    Mutation(RECIPES, 'config.recipe == "short" or config.dataset == "own"', "True", PAPER),
    Mutation(TRAINER, "(optimizer, {**options,", "(torch.optim.AdamW, {**options,", FLAGS),
    Mutation(EMA, "(1 + step) / (10 + step)", "(1 + step) / (100 + step)", WARM_UP),
    # Pictures against the reference.
    Mutation(AUGMENTATION, "(0.299, 0.587, 0.114)", "(0.114, 0.587, 0.299)", (f"{_PICTURES}::test_grey",)),
    Mutation(
        AUGMENTATION, "rng.choice((0.5, 1.0, 2.0))", "rng.choice((0.5, 1.0, 20.0))", (f"{_PICTURES}::test_gamma",)
    ),
    Mutation(
        AUGMENTATION,
        "max(0, x - half_width) : x + half_width] = 0",
        "max(0, x - half_width) : x + half_width] = 1",
        (f"{_PICTURES}::test_occluder",),
    ),
    Mutation(
        AUGMENTATION, "weight = rng.uniform(0, 0.5)", "weight = rng.uniform(0, 1.0)", (f"{_PICTURES}::test_noise",)
    ),
    Mutation(
        AUGMENTATION,
        "before, after = size // 2, size - 1 - size // 2",
        "after, before = size // 2, size - 1 - size // 2",
        (f"{_PICTURES}::test_blur",),
    ),
    Mutation(AUGMENTATION, "landmarks[:, 1]], dim=-1)[permutation]", "landmarks[:, 1]], dim=-1)", MIRRORED),
    Mutation(
        AUGMENTATION,
        "table[: len(permutation)] = torch.tensor(permutation)",
        "table[: len(permutation)] = torch.arange(len(permutation))",
        MIRRORED,
    ),
    Mutation(TASKS, 'grid, mode="nearest"', 'grid, mode="bilinear"', NEAREST),
    Mutation(TASKS, "(points - centre + 0.5) / size", "(points - centre) / size", ALIGNMENT_CROP),
    Mutation(FACES, "matrix = (jitter @ matrix).float()", "matrix = (matrix @ jitter).float()", PARSING_CROP),
    # A run.
    Mutation(
        PREPARATION, "train.select(sorted(indices[held_out:])), train", "train.select(sorted(indices)), train", HELD_OUT
    ),
    Mutation(FACES, "_SUBSET_SEED = 123", "_SUBSET_SEED = 0", FEW),
    Mutation(PREPARATION, "config.train_data_ratio != 1:", "False:", FEW),
    Mutation(
        TRAINER,
        "        super()._load_best_model()\n        if self.ema is not None:\n            self.ema.reset(self.model)",
        "        super()._load_best_model()",
        BEST,
    ),
    Mutation(
        RESULTS,
        "choose = max if task.greater_is_better else min",
        "choose = min if task.greater_is_better else max",
        LOG,
    ),
    Mutation(RESULTS, "[choose(scores, key=", "[scores[-1] or choose(scores, key=", LOG),
    Mutation(
        RECIPES,
        '"greater_is_better": benchmark.task.greater_is_better if',
        '"greater_is_better": not benchmark.task.greater_is_better if',
        PAPER,
    ),
    Mutation(RESUMING, '    "learning_rate",\n', "", OWN_SETTINGS),
    Mutation(
        PREPARATION,
        "        if part is not None:\n            part.check(config.skip_bad)",
        "        if part is not None:\n            pass",
        CHECKED,
    ),
    Mutation(TASKS, "ids <= {0, IGNORE_INDEX}", "ids <= {IGNORE_INDEX}", CHECKED),
]

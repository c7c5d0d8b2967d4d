"""Mistakes in masks, losses, schedule, codebook, views and the watch over a run."""

from . import Mutation

BUILDING = "farl_hf/pretraining/building.py"
CODEBOOK = "farl_hf/pretraining/image_codebook.py"
CONTRASTIVE = "farl_hf/pretraining/contrastive.py"
MASKING = "farl_hf/pretraining/masking.py"
OBJECTIVE = "farl_hf/pretraining/objective.py"
SCHEDULE = "farl_hf/pretraining/schedule.py"
STABILITY = "farl_hf/pretraining/stability.py"
VIEWS = "farl_hf/pretraining/image_views.py"

_MASKS = ("tests/pretraining/test_masking.py",)
_CODES = ("tests/pretraining/test_image_codebook.py",)
_LOOP = "tests/pretraining/test_loop.py"
_LOSS = "tests/pretraining/test_contrastive.py"
_STREAM = "tests/pretraining/test_stream.py"
_CHECKPOINTS = "tests/pretraining/test_training_checkpoints.py"

MUTATIONS = [
    Mutation(
        MASKING,
        "_PATCHES, _MASKED, _SMALLEST_BLOCK = 196, 75, 16",
        "_PATCHES, _MASKED, _SMALLEST_BLOCK = 196, 57, 16",
        _MASKS,
    ),
    Mutation(MASKING, "_LOWEST_ASPECT = 0.3", "_LOWEST_ASPECT = 0.8", _MASKS),
    Mutation(MASKING, "if 0 < added <= budget:", "if 0 < added:", _MASKS),
    Mutation(MASKING, "rng.randint(0, self.grid - width)", "rng.randint(0, (self.grid - width) // 2)", _MASKS),
    Mutation(
        CONTRASTIVE,
        "scale = logit_scale.float().exp()",
        "scale = logit_scale.float()",
        (f"{_LOSS}::test_contrastive_loss_by_hand",),
    ),
    Mutation(
        CONTRASTIVE,
        "return losses[0] + losses[1], (hits",
        "return losses[0] + losses[0], (hits",
        (f"{_LOSS}::test_contrastive_loss_by_hand",),
    ),
    Mutation(
        CONTRASTIVE,
        "+ rank * count",
        "+ 0 * count",
        (f"{_LOSS}::test_two_processes_equal_one[plain]",),
    ),
    Mutation(
        CONTRASTIVE, "        dist.all_reduce(gradient)\n", "", (f"{_LOSS}::test_two_processes_equal_one[plain]",)
    ),
    Mutation(
        CONTRASTIVE,
        "self.logit_scale * share",
        "self.logit_scale",
        (f"{_LOSS}::test_chunks_and_accumulation_equal_one_batch[both]",),
    ),
    Mutation(
        OBJECTIVE,
        "losses.append(self.mim_weight * mim_loss)",
        "losses.append(mim_loss)",
        (f"{_LOSS}::test_each_loss_has_its_weight",),
    ),
    Mutation(
        OBJECTIVE,
        'inputs["mim_targets"][inputs["bool_masked_pos"]]',
        'inputs["mim_targets"][inputs["bool_masked_pos"]].flip(0)',
        (_LOSS,),
    ),
    Mutation(SCHEDULE, "* (1 + math.cos(math.pi * progress)) / 2", "* (1 - progress)", (f"{_LOOP}::test_schedule",)),
    Mutation(SCHEDULE, "* step / self.warmup_steps", "* (step + 1) / self.warmup_steps", (f"{_LOOP}::test_schedule",)),
    Mutation(BUILDING, "if decay_all or is_matrix else", "if is_matrix else", (f"{_LOOP}::test_what_decays",)),
    Mutation(CODEBOOK, "(1 - 2 * _DALLE_EPS) * pixels + _DALLE_EPS", "pixels", _CODES),
    Mutation(CODEBOOK, "(projected @ self.codes.T).argmax", "(projected @ self.codes.T).argmin", _CODES),
    Mutation(
        VIEWS, "6: Image.Transpose.ROTATE_270", "6: Image.Transpose.ROTATE_90", (f"{_STREAM}::test_exif_orientation",)
    ),
    Mutation(
        VIEWS,
        "(self.codebook_size, Image.Resampling.LANCZOS)",
        "(self.codebook_size, Image.Resampling.NEAREST)",
        (f"{_STREAM}::test_views_are_resampled_as_in_beit",),
    ),
    Mutation(VIEWS, "* width / detected_width for", "for", (f"{_STREAM}::test_face_crops",)),
    Mutation(
        STABILITY,
        "_DEVIATIONS, _SHARE = 6.0, 0.02",
        "_DEVIATIONS, _SHARE = 60.0, 0.02",
        (f"{_CHECKPOINTS}::test_loss_spikes_are_noted",),
    ),
]

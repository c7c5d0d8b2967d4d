"""Mistakes in the networks and in what surrounds them."""

from . import Mutation

MODELING = "farl_hf/models/modeling_farl.py"
HEAD = "farl_hf/models/dense_head_farl.py"
CONFIGURATION = "farl_hf/models/configuration_farl.py"
OPTIMIZATION = "farl_hf/inference/optimization.py"


def dual_encoder(old: str, new: str, test: str) -> Mutation:
    return Mutation(MODELING, old, new, (f"tests/models/test_modeling_farl.py::{test}",))


def dense(old: str, new: str, test: str, file: str = MODELING) -> Mutation:
    return Mutation(file, old, new, (f"tests/models/test_dense_models.py::{test}",))


def head(old: str, new: str, test: str) -> Mutation:
    return Mutation(HEAD, old, new, (f"tests/models/test_dense_head_farl.py::{test}",))


def hooks(old: str, new: str, test: str, file: str = MODELING) -> Mutation:
    return Mutation(file, old, new, (f"tests/models/test_hooks.py::{test}",))


def optimization(old: str, new: str, test: str) -> Mutation:
    return Mutation(OPTIMIZATION, old, new, (f"tests/inference/test_optimization.py::{test}",))


MUTATIONS = [
    dual_encoder(
        'mode="bicubic", align_corners=False',
        'mode="bicubic", align_corners=True',
        "test_position_tables_are_resized_as_in_the_original",
    ),
    dual_encoder(
        'size=grid, mode="bicubic"', 'size=grid, mode="bilinear"', "test_position_tables_are_resized_as_in_the_original"
    ),
    dual_encoder("if eos_token_id == 2:", "if eos_token_id == -2:", "test_end_of_text"),
    dual_encoder("return (image_loss + text_loss) / 2", "return image_loss", "test_pretraining_losses_and_gradients"),
    dual_encoder(
        "bool_masked_pos[..., None], self.mask_token",
        "~bool_masked_pos[..., None], self.mask_token",
        "test_pretraining_losses_and_gradients",
    ),
    dual_encoder(
        "losses.append(self.config.mim_loss_weight * output.mim_loss)",
        "losses.append(output.mim_loss)",
        "test_pretraining_losses_and_gradients",
    ),
    dual_encoder("ignore_index).sum().clamp(min=1)", "ignore_index).sum()", "test_masks_of_other_types_and_of_nothing"),
    dual_encoder(
        "first[name], second[name] = value.chunk(2)",
        "second[name], first[name] = value.chunk(2)",
        "test_hidden_states_of_pretraining",
    ),
    dense("return [9, 15, 21, 32]", "return [8, 16, 24, 32]", "test_taps_of_the_original", CONFIGURATION),
    dense("third = num_hidden_layers / 3", "third = num_hidden_layers / 4", "test_taps_of_the_original", CONFIGURATION),
    dense(
        "out_indices=self.config.out_indices, return_dict",
        "out_indices=[i - 1 for i in self.config.out_indices], return_dict",
        "test_the_neck_reads_the_outputs_of_these_layers",
    ),
    dense("if min(grid) < 2:", "if min(grid) < 1:", "test_images_that_are_too_small_for_the_head"),
    dense('return labels.device.type == "cpu" and', "return", "test_labels_on_an_accelerator_are_not_waited_for"),
    dense("patches.mean(dim=1)", "patches.amax(dim=1)", "test_attribute_head_and_problem_types"),
    dense(
        "(landmarks - labels).norm(dim=-1).mean()",
        "(landmarks - labels).abs().mean()",
        "test_alignment_losses_and_their_gradients",
    ),
    head("nn.MaxPool2d(kernel_size=2, stride=2)", "nn.AvgPool2d(kernel_size=2, stride=2)", "test_neck_by_hand"),
    head(
        'mode="linear", align_corners=False',
        'mode="linear", align_corners=True',
        "test_low_resolution_fusion_is_the_same_convolution",
    ),
    head("for i in (3, 2, 1):", "for i in (1, 2, 3):", "test_head_equals_the_plain_one"),
    hooks("if not isinstance(self.conv, FusionConv):", "if False:", "test_adapters_learn_wherever_they_sit", HEAD),
    hooks(
        "table = self.position_embedding(torch.arange(side * side + 1, device=self.class_embedding.device))",
        "table = self.position_embedding.weight",
        "test_weights_on_disk",
    ),
    hooks("len(hidden_states) == 0:", "len(hidden_states) < 0:", "test_photos_without_faces_pass"),
    optimization("self.expand.weight *= 1.702", "self.expand.weight *= 1.7", "test_copies_of_other_models"),
    optimization(
        "model.save_pretrained = _refuse_to_save",
        "pass",
        "test_a_copy_is_not_taken_for_a_model",
    ),
    Mutation(
        "farl_hf/models/processing_farl.py",
        'if stored.get("image_processor_type") ==',
        'if stored.get("image_processor_type") !=',
        ("tests/models/test_auto_classes.py::test_task_folders_have_the_face_processor_and_nothing_else",),
    ),
]

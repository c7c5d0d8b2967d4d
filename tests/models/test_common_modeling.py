"""Transformers' own common tests on our classes. First run: python scripts/fetch_transformers_tests.py"""

import unittest

import pytest
import torch
from transformers_tests.test_backbone_common import BackboneTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import (
    ModelTesterMixin,
    floats_tensor,
    ids_tensor,
    random_attention_mask,
)

from farl_hf import (
    FaRLBackbone,
    FaRLConfig,
    FaRLForFaceAlignment,
    FaRLForFaceParsing,
    FaRLForImageClassification,
    FaRLForPreTraining,
    FaRLModel,
    FaRLTextConfig,
    FaRLTextModel,
    FaRLVisionConfig,
    FaRLVisionModel,
)

pytestmark = pytest.mark.accelerator

SIZES = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}


class TextModelTester:
    batch_size, seq_length, is_training = 12, 7, False
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return FaRLTextConfig(
            **SIZES, vocab_size=99, max_position_embeddings=64, bos_token_id=97, eos_token_id=98, pad_token_id=1
        )

    def prepare_config_and_inputs_for_common(self):
        input_ids = ids_tensor([self.batch_size, self.seq_length], 97)
        attention_mask = random_attention_mask([self.batch_size, self.seq_length])
        # One run of tokens and then padding, as the tokenizer makes it.
        for row, length in enumerate(torch.randint(1, self.seq_length, (self.batch_size,)).tolist()):
            attention_mask[row, :length], attention_mask[row, length:] = 1, 0
            input_ids[row, length - 1] = 98
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}


class VisionModelTester:
    batch_size, image_size, patch_size, num_channels, is_training = 12, 32, 8, 3, False
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    seq_length = 17

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return FaRLVisionConfig(**SIZES, image_size=32, patch_size=8)

    def prepare_config_and_inputs(self):
        return self.get_config(), floats_tensor([self.batch_size, 3, 32, 32]), None

    def prepare_config_and_inputs_for_common(self):
        config, pixel_values, _ = self.prepare_config_and_inputs()
        return config, {"pixel_values": pixel_values}


class ModelTester:
    """The dual encoder: its hidden states are tested on the towers."""

    is_training = True
    batch_size = 12
    # Of `bool_masked_pos`, which the common tests make for FaRLForPreTraining.
    num_masks, mask_length = 5, 16

    def __init__(self, parent):
        self.parent = parent
        self.text_model_tester, self.vision_model_tester = TextModelTester(parent), VisionModelTester(parent)

    def get_config(self):
        return FaRLConfig(
            text_config=self.text_model_tester.get_config().to_dict(),
            vision_config=self.vision_model_tester.get_config().to_dict(),
            projection_dim=64,
            mim_vocab_size=50,
        )

    def prepare_config_and_inputs_for_common(self):
        _, inputs = self.text_model_tester.prepare_config_and_inputs_for_common()
        _, vision_inputs = self.vision_model_tester.prepare_config_and_inputs_for_common()
        return self.get_config(), {**inputs, **vision_inputs}


class FaceModelTester(VisionModelTester):
    """The task models. The common tests want at most two layers, so some are tapped twice."""

    is_training = True
    num_labels, num_landmarks = 5, 7

    def get_config(self):
        vision_config = {**SIZES, "image_size": 32, "patch_size": 8}
        return FaRLConfig(
            text_config=TextModelTester(self.parent).get_config().to_dict(),
            vision_config=vision_config,
            out_indices=[1, 1, 2, 2],
            head_channels=16,
            head_dropout=0.0,
            num_labels=self.num_labels,
            num_landmarks=self.num_landmarks,
            heatmap_size=16,
        )


class CommonTests(ModelTesterMixin):
    test_resize_embeddings = False
    test_pruning = False
    test_head_masking = False
    has_attentions = True

    @unittest.skip("CLIP-shaped models have no inputs_embeds at their top (CLIP skips this too)")
    def test_inputs_embeds(self):
        pass

    @unittest.skip("CLIP-shaped models have no inputs_embeds at their top (CLIP skips this too)")
    def test_inputs_embeds_matches_input_ids(self):
        pass


class FaRLTextModelTest(CommonTests, unittest.TestCase):
    all_model_classes = (FaRLTextModel,)

    def setUp(self):
        self.model_tester = TextModelTester(self)
        self.config_tester = ConfigTester(self, config_class=FaRLTextConfig, hidden_size=32)

    def test_config(self):
        self.config_tester.run_common_tests()


class FaRLVisionModelTest(CommonTests, unittest.TestCase):
    all_model_classes = (FaRLVisionModel,)

    def setUp(self):
        self.model_tester = VisionModelTester(self)
        self.config_tester = ConfigTester(self, config_class=FaRLVisionConfig, has_text_modality=False, hidden_size=48)

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        model = FaRLVisionModel(self.model_tester.get_config())
        self.assertIs(model.get_input_embeddings(), model.embeddings.patch_embedding)


class FaRLModelTest(CommonTests, unittest.TestCase):
    all_model_classes = (FaRLModel, FaRLForPreTraining)
    additional_model_inputs = ["pixel_values"]
    test_attention_outputs = False

    def setUp(self):
        self.model_tester = ModelTester(self)
        self.config_tester = ConfigTester(self, config_class=FaRLConfig, has_text_modality=False, projection_dim=64)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["return_loss"] = True
            if model_class is FaRLForPreTraining:
                inputs["bool_masked_pos"] = torch.arange(16).repeat(len(inputs["pixel_values"]), 1) % 3 == 0
                inputs["mim_targets"] = torch.zeros(len(inputs["pixel_values"]), 16, dtype=torch.long)
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip("Hidden states and attentions are those of the towers (CLIP skips this too)")
    def test_hidden_states_output(self):
        pass

    @unittest.skip("Hidden states and attentions are those of the towers (CLIP skips this too)")
    def test_retain_grad_hidden_states_attentions(self):
        pass

    @unittest.skip("The dual encoder has several input embeddings (CLIP skips this too)")
    def test_model_get_set_embeddings(self):
        pass


class FaRLTaskModelsTest(CommonTests, unittest.TestCase):
    all_model_classes = (FaRLForFaceParsing, FaRLForFaceAlignment, FaRLForImageClassification)

    def setUp(self):
        self.model_tester = FaceModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=False)
        if return_labels:
            batch = len(inputs["pixel_values"])
            inputs["labels"] = {
                FaRLForFaceParsing: torch.zeros(batch, 32, 32, dtype=torch.long),
                FaRLForFaceAlignment: torch.full((batch, self.model_tester.num_landmarks, 2), 0.5),
                FaRLForImageClassification: torch.zeros(batch, dtype=torch.long),
            }[model_class]
        return inputs

    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIs(model.get_input_embeddings(), model.vision_model.embeddings.patch_embedding)


class FaRLBackboneTest(BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (FaRLBackbone,)
    config_class = FaRLVisionConfig
    has_attentions = True

    def setUp(self):
        self.model_tester = VisionModelTester(self)

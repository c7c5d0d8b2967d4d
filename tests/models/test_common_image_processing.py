"""Transformers' common image processor tests on our classes. First run: python scripts/fetch_transformers_tests.py"""

import unittest

import torch
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers_tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)

from farl_hf import FaRLFaceImageProcessor, FaRLImageProcessor, FaRLImageProcessorPil


class Tester(ImageProcessingTester):
    __test__ = False

    def __init__(self, parent):
        super().__init__(parent, size={"shortest_edge": 20}, crop_size={"height": 18, "width": 18})

    def _get_image_processing_classes(self):
        return {"torchvision": FaRLImageProcessor, "pil": FaRLImageProcessorPil}


class FaRLImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = Tester

    @unittest.skip("Downloads its picture; test_auto_classes.py compares the backends on one of ours")
    def test_backends_equivalence(self):
        pass


class FaceTester:
    batch_size = 2

    def prepare_post_process_semantic_segmentation_inputs(self):
        outputs = SemanticSegmenterOutput(logits=torch.randn(2, 5, 8, 8))
        return {"outputs": outputs}, {"num_labels": 5, "height": 8, "width": 8}


class FaRLFaceImageProcessorTest(PostProcessSemanticSegmentationTestMixin, unittest.TestCase):
    image_processing_classes = {"torch": FaRLFaceImageProcessor}
    image_processor_dict = {}
    image_processor_tester = FaceTester()

"""A batch of noise for the joint training of the small weights."""

import torch

from farl_hf.finetuning.joint import JointBatch


def random_joint_batch(faces: int, size: int, patches: int, codes: int, caption: list[int], masked: int) -> JointBatch:
    """The same every time: `faces` of `size` px with two captions each, the first `masked` with a masked copy."""
    generator = torch.Generator().manual_seed(0)
    return JointBatch(
        pixel_values=torch.randn(faces, 3, size, size, generator=generator),
        input_ids=torch.tensor([[caption]]).repeat(2, faces, 1),
        contrary_ids=torch.tensor([[caption], [[*caption[:-2], caption[-2] + 1, caption[-1]]]]),
        contrary_rows=torch.tensor([1]),
        lapa_labels=torch.randint(0, 11, (faces, size, size), generator=generator),
        celebamask_hq_labels=torch.randint(0, 19, (faces, size, size), generator=generator),
        landmarks={n: torch.rand(faces, n, 2, generator=generator) for n in (68, 98)},
        attributes=torch.tensor([[0.0, 1.0]]).repeat(faces, 1),
        bool_masked_pos=(torch.arange(patches) < patches // 3).repeat(masked, 1),
        mim_targets=torch.randint(0, codes, (masked, patches), generator=generator),
    )

"""The experiment's small rules: inner rates for other tasks than trained on, and what counts as seen in training."""

from __future__ import annotations

import pytest
import torch

from ovonic.models.errors import ConfigError
from ovonic.models.fewshot_cnn import CNNConfig, FewshotCNN
from ovonic.tasks.fewshot import inner_rates
from ovonic.tasks.fewshot_evaluation import seen_alphabets
from ovonic.tasks.glyphs import glyph_alphabets


def test_inner_rates_keep_the_length_of_a_classs_step() -> None:
    net = FewshotCNN(CNNConfig(n_way=5, channels=4, updates=2, inner_lr=0.1))
    net.inner_lr.data = torch.tensor([0.1, 0.2])
    assert torch.equal(inner_rates(net, None, 5), torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(inner_rates(net, 4, 5), torch.tensor([0.1, 0.2, 0.2, 0.2]))
    torch.testing.assert_close(inner_rates(net, 1, 20), torch.tensor([0.4]))
    assert len(inner_rates(net, 0, 5)) == 0
    with pytest.raises(ConfigError, match="updates -1"):
        inner_rates(net, -1, 5)


def test_alphabets_seen_in_training_are_named() -> None:
    glyphs = glyph_alphabets(4000, 2, characters=3, drawers=2)
    assert seen_alphabets({"alphabets": ["glyph-04001", "Greek"]}, glyphs) == ["glyph-04001"]
    assert seen_alphabets({}, glyphs) == []

import pytest
import torch
from torch import nn

from lethe.training import gauges


def test_gauges_agree_with_the_flat_vectors():
    draws = torch.Generator().manual_seed(0)
    one, two = ([torch.randn(shape, generator=draws) for shape in ((3, 4), (5,), ())] for _ in range(2))
    flat = [torch.cat([part.flatten() for part in vector]) for vector in (one, two)]
    assert gauges.dot(one, two).item() == pytest.approx(torch.dot(*flat).item(), rel=1e-5)
    assert gauges.norm(one).item() == pytest.approx(flat[0].norm().item(), rel=1e-6)
    wanted = torch.nn.functional.cosine_similarity(*flat, dim=0).item()
    assert gauges.cosine(one, two).item() == pytest.approx(wanted, rel=1e-5)
    assert gauges.distance(one, two).item() == pytest.approx((flat[1] - flat[0]).norm().item(), rel=1e-6)


def test_nothing_is_divided_by_zero():
    zero, one = [torch.zeros(2)], [torch.ones(2)]
    assert gauges.cosine(zero, one).item() == 0
    assert gauges.ratio(torch.tensor(1.0), torch.tensor(0.0)).item() == 0


def test_copies_do_not_follow_the_model():
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.ones(1, 2)
    found, before = gauges.gradient(list(layer.parameters())), gauges.weights(list(layer.parameters()))
    layer.weight.grad.zero_()
    with torch.no_grad():
        layer.weight.add_(1)
    assert [part.tolist() for part in found] == [[[1, 1]], [0]]
    assert not torch.equal(before[0], layer.weight)

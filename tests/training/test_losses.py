import pytest
import torch

from lethe.training import losses

SNR = torch.tensor([0.1, 4.0, 100.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("prediction", "form", "wanted"),
    [
        ("v_prediction", "legacy", [1, 1, 5 / 101]),
        ("v_prediction", "standard", [0.1 / 1.1, 4 / 5, 5 / 101]),
        ("epsilon", "legacy", [1, 1, 5 / 100]),
        ("sample", "legacy", [0.1, 4, 5]),
    ],
)
def test_min_snr_weights(prediction, form, wanted):
    found = losses.snr_weight(SNR, 5.0, prediction, form)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_no_gamma_is_plain_mean_square():
    assert losses.snr_weight(SNR, None, "epsilon").tolist() == [1, 1, 1]


def test_weights_are_finite_at_the_end_of_a_zero_snr_schedule():
    for prediction in ("epsilon", "v_prediction", "sample"):
        assert losses.snr_weight(torch.zeros(1), 5.0, prediction).isfinite().all()


def schedule(prediction):
    from diffusers import DDPMScheduler

    made = DDPMScheduler(prediction_type=prediction)
    return made, losses.schedule(made, 5.0, "legacy", torch.device("cpu"))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noising_and_targets_are_those_of_diffusers(prediction):
    theirs, ours = schedule(prediction)
    z, e, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0, 500, 999])
    torch.testing.assert_close(ours.noised(z, e, t), theirs.add_noise(z, e, t))
    target = {"epsilon": e, "v_prediction": theirs.get_velocity(z, e, t), "sample": z}[prediction]
    torch.testing.assert_close(ours.target(z, e, t), target)


def test_a_perfect_answer_in_v_gives_back_latent_and_noise():
    _, ours = schedule("v_prediction")
    z, e, t = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor([10, 900])
    a, s = ours.a[t][:, None, None, None], ours.s[t][:, None, None, None]
    v, noisy = ours.target(z, e, t), ours.noised(z, e, t)
    torch.testing.assert_close(a * noisy - s * v, z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(s * noisy + a * v, e, atol=1e-5, rtol=1e-5)


def test_unknown_prediction_type_is_refused():
    from diffusers import DDPMScheduler

    from lethe.files.errors import UserError

    made = DDPMScheduler()
    made.register_to_config(prediction_type="flow")
    with pytest.raises(UserError, match="flow"):
        losses.schedule(made, 5.0, "legacy", torch.device("cpu"))


def test_diffusion_loss_weighs_each_sample():
    answer, target = torch.zeros(2, 1, 2, 2), torch.stack([torch.ones(1, 2, 2), torch.full((1, 2, 2), 2.0)])
    assert losses.diffusion(answer, target, torch.tensor([1.0, 0.5])).item() == pytest.approx((1 * 1 + 0.5 * 4) / 2)


def test_feature_loss_is_a_mean_over_blocks_whatever_their_size():
    answers = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 300)}
    targets = {"a": torch.ones(2, 3), "b": torch.full((2, 300), 3.0)}
    assert losses.features(answers, targets, [(name, name) for name in targets]).item() == pytest.approx((1 + 9) / 2)


def test_losses_are_float32_for_half_precision_answers():
    half = torch.ones(2, 1, 2, 2, dtype=torch.bfloat16)
    assert losses.mean_square(half, half).dtype == torch.float32
    assert losses.diffusion(half, half, torch.ones(2)).dtype == torch.float32

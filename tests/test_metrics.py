"""Metrics, FID, images: values computed by hand, and results that do not depend on batches."""

import json

import numpy as np
import pytest
import torch

from training.fid import Fid, make_fid
from training.inception import FidInception, load_inception, resize_as_tensorflow1
from training.metrics import (
    GroundTruth,
    SampleTable,
    add_quality,
    averages,
    averages_per_frame,
    changed_pixels,
    evenly_spaced,
    own_indices,
    psnr_per_frame,
    squared_error_per_frame,
    ssim_per_frame,
)
from training.runtime import make_runtime
from training.tracker import MetricsFile, read_metrics


@pytest.fixture(scope="module")
def inception() -> FidInception:
    torch.manual_seed(0)
    model = FidInception()
    for module in model.modules():  # random weights whose features neither vanish nor explode
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def video(seed: int = 0, shape: tuple[int, ...] = (2, 3, 3, 16, 16)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_minus_ten_log_of_each_frames_mean_squared_error():
    target, prediction = video(0), video(1)
    expected = -10 * torch.log10((target - prediction).square().mean(dim=(2, 3, 4)))
    torch.testing.assert_close(psnr_per_frame(prediction, target), expected, atol=1e-4, rtol=1e-5)


def test_psnr_of_equal_frames_is_100_not_infinite():
    assert psnr_per_frame(video(), video()).tolist() == [[100.0] * 3] * 2


def test_predictions_outside_the_range_are_clamped():
    target = torch.ones(1, 1, 3, 16, 16)
    assert psnr_per_frame(target + 5, target).item() == 100.0
    assert ssim_per_frame(target + 5, target).item() == pytest.approx(1.0)


def test_autocast_changes_no_metric():
    still = torch.rand(2, 1, 3, 8, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    target = still + 0.002 * torch.randn(2, 3, 3, 64, 64)  # flat areas: variances far below squared means
    prediction = still + 0.002 * torch.randn(2, 3, 3, 64, 64)
    for metric in (psnr_per_frame, ssim_per_frame, squared_error_per_frame):
        plain = metric(prediction, target)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(metric(prediction, target), plain, rtol=0, atol=0)


@pytest.mark.parametrize(("size", "is_defined"), [((5, 16), False), ((16, 5), False), ((6, 6), True)])
def test_ssim_of_frames_smaller_than_its_window_is_not_defined(size, is_defined):
    frames = video(shape=(2, 3, 3, *size))
    found = ssim_per_frame(frames, frames)
    assert found.shape == (2, 3) and bool(found.isnan().any()) != is_defined


def test_ssim_is_per_frame_and_one_for_equal_frames():
    target = video()
    prediction = target.clone()
    prediction[1, 2] = video(3)[1, 2]
    values = ssim_per_frame(prediction, target)
    assert values.shape == (2, 3)
    assert values[1, 2] < 0.5
    values[1, 2] = 1.0
    torch.testing.assert_close(values, torch.ones(2, 3))


def test_average_does_not_depend_on_batches():
    values = video(0, (7, 3))
    measured = []
    for batch_size in (1, 3, 7):
        table = SampleTable()
        for start in range(0, 7, batch_size):
            table.add("x", list(range(start, min(7, start + batch_size))), values[start : start + batch_size])
        measured.append(averages(table.gather())["x"])
    assert measured == [pytest.approx(values.mean().item())] * 3
    assert len(set(measured)) == 1


def test_pooled_psnr_is_that_of_the_mean_error_where_equal_frames_do_not_count_100():
    errors = np.array([[0.0, 0.01], [0.0, 0.03]])
    assert averages({"mse": errors})["pooled_psnr"] == pytest.approx(20.0)
    pooled = averages_per_frame({"copy_last_mse": errors})["copy_last_pooled_psnr"]
    assert pooled == pytest.approx([100, 16.9897], abs=1e-3)


def test_shares_of_processes_hold_every_clip_once():
    class Share:
        def __init__(self, index: int):
            self.process_index, self.num_processes = index, 3

    indices = evenly_spaced(10, 0)
    shares = [own_indices(indices, Share(i)) for i in range(3)]  # type: ignore[arg-type]
    assert sorted(index for share in shares for index in share) == list(range(10))
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly_spaced(3, 8).tolist() == [0, 1, 2]


# ---- FID ------------------------------------------------------------------------------------------------------------


def test_inception_has_the_layout_of_the_published_weights(inception):
    state = inception.state_dict()
    assert sum(p.numel() for p in inception.parameters()) == 21_785_568  # Inception-v3 without classifiers
    assert sum(key.endswith(".conv.weight") for key in state) == 94
    for key, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7dbl_5.conv.weight": (192, 128, 1, 7),
        "Mixed_6e.branch7x7_3.conv.weight": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.bn.bias": (192,),
    }.items():
        assert tuple(state[key].shape) == shape, key


def test_inception_features_are_2048_wide_and_each_image_by_itself(inception):
    images = (video(2, (3, 3, 20, 24)) * 255).byte()
    together = inception(images)
    assert together.shape == (3, 2048)
    torch.testing.assert_close(inception(images[1:2]), together[1:2], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="uint8"):
        inception(images.float())


def test_published_file_loads_with_its_classifier_and_without_counters(tmp_path, inception):
    state = {k: v for k, v in inception.state_dict().items() if not k.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_inception(tmp_path / "weights.pth")
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    torch.testing.assert_close(loaded(images), inception(images))


def test_a_file_of_another_network_is_refused(tmp_path, inception):
    state = inception.state_dict()
    del state["Mixed_7c.branch1x1.conv.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"Mixed_7c\.branch1x1"):
        load_inception(tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match=r"fid_weights="):
        make_fid(str(tmp_path / "none.pth"), 3, make_runtime("cpu", "fp32"))


def test_resize_takes_pixel_i_at_source_i_times_ratio():
    row = torch.tensor([0.0, 4.0]).expand(1, 1, 2, 2)
    assert resize_as_tensorflow1(row, 4)[0, 0, 0].tolist() == [0.0, 2.0, 4.0, 4.0]


class ChannelMeans(torch.nn.Module):
    """Three features, so that the distance takes no time."""

    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def test_fid_of_a_set_with_itself_is_zero_and_does_not_depend_on_batches():
    fid = Fid(ChannelMeans(), torch.device("cpu"))
    frames = video(4, (6, 1, 3, 16, 16))
    fid.update(frames, real=True)
    for start in (0, 2):
        fid.update(frames[start : start + 2 + start], real=False)
    same = fid.compute()
    fid.update(video(5, (3, 2, 3, 16, 16)) * 0.2, real=False)
    assert abs(same) < 1e-3
    assert fid.compute() > 100


def test_without_weights_there_is_no_fid_but_a_line_that_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("training.fid.WEIGHTS_URL", (tmp_path / "offline").as_uri())
    fid, reason = make_fid(None, 3, make_runtime("cpu", "fp32"))
    assert fid is None
    assert "eval.fid_weights" in reason
    assert "\n" not in reason
    assert not list(tmp_path.rglob("*.pth*"))


def test_a_damaged_download_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "source").write_bytes(b"not the weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("training.fid.WEIGHTS_URL", (tmp_path / "source").as_uri())
    assert make_fid(None, 3, make_runtime("cpu", "fp32"))[0] is None
    assert not list((tmp_path / "hub").rglob("*.pth*"))


# ---- records -----------------------------------------------------------------------------------------------------


def test_metrics_past_the_resumed_step_and_a_cut_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = MetricsFile(path, 0)
    for step in (10, 20, 30):
        rows.log(step, "train", {"loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 40, "spl')
    resumed = MetricsFile(path, 20)
    assert [row["step"] for row in read_metrics(path)] == [10, 20]
    assert resumed.has(20, "train")
    assert not resumed.has(30, "train")
    resumed.log(30, "train", {"loss": float("nan")})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]
    assert read_metrics(path)[-1]["loss"] is None


def test_psnr_of_changed_pixels_weighs_every_changed_pixel_alike_and_no_other():
    target = torch.zeros(2, 2, 3, 16, 16)
    target[0, 0, 1, 0, :2] = 0.5  # two pixels change in one frame, one in another, none in the others
    target[1, 1, 2, 3, 3] = 1.0
    truth = GroundTruth([0, 1], target, changed_pixels(target, torch.zeros(2, 1, 3, 16, 16)))
    assert truth.changed.sum(dim=(2, 3, 4)).tolist() == [[2, 0], [0, 1]]
    table = SampleTable()
    add_quality(table, "", torch.zeros_like(target), truth)
    add_quality(table, "far_", torch.where(truth.changed, target, target + 0.5), truth)
    found = averages(table.gather())
    expected = -10 * np.log10((2 * 0.25 + 1.0) / 3 / 3)  # one of three channels is wrong
    assert found["changed_pooled_psnr"] == pytest.approx(expected, abs=1e-4)
    assert found["far_changed_pooled_psnr"] == 100
    assert found["changed_share"] == pytest.approx(3 / 1024)


def test_what_lossy_recording_changes_has_not_changed():
    still = torch.full((1, 1, 3, 4, 4), 0.5)
    assert not changed_pixels(still + 6 / 255, still).any()
    assert changed_pixels(still + 12 / 255, still).all()
    greys = torch.arange(247, dtype=torch.uint8).view(1, 1, 1, 1, -1)
    eight, nine = (changed_pixels((greys + by).float() / 255, greys.float() / 255) for by in (8, 9))
    assert nine[..., :-1].all() and not eight.any()


def test_where_nothing_changes_changed_pixels_are_not_measured():
    still = torch.full((1, 2, 3, 16, 16), 0.5)
    table = SampleTable()
    add_quality(table, "", still * 0, GroundTruth([0], still, changed_pixels(still, still[:, :1])))
    found, per_frame = averages(table.gather()), averages_per_frame(table.gather())
    assert np.isnan([found["changed_pooled_psnr"], found["changed_share"], *per_frame["changed_pooled_psnr"]]).all()
    assert per_frame["changed_share"] == [0, 0]
    moving = still.clone()
    moving[:, 1] = 1
    add_quality(table, "", moving, GroundTruth([1], moving, changed_pixels(moving, moving[:, :1])))
    found, per_frame = averages(table.gather()), averages_per_frame(table.gather())
    assert found["changed_share"] == 0.25 and found["changed_pooled_psnr"] == 100
    assert per_frame["changed_pooled_psnr"][1] == 100 and np.isnan(per_frame["changed_pooled_psnr"][0])

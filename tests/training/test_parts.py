"""The parts of training, each against a closed form."""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from models.training import classifier
from models.training.classifier import train_judge
from models.training.data import load
from models.training.ema import EMA, power_beta, power_gamma
from models.training.evaluate import Report, Row, caution
from models.training.images import Images
from models.training.latents import LatentCache, cache_latents, fold_normalisation, moments
from models.training.log import Log, duration
from models.training.loop import Process, TrainingError, fit, fit_batch, learning_rate
from models.training.metrics import frechet_distance, precision_recall
from models.training.randomness import batch_indices, mix
from models.training.recipe import (
    DataRecipe,
    DiffusionTraining,
    Optimisation,
    Recipe,
    VAETraining,
)
from models.training.vae import VAETask, psnr
from models.vae import AutoencoderKL
from tests.tiny import SCHEDULE, UNET, VAE


class TestEMA:
    @pytest.mark.parametrize("length", [0.05, 0.1, 0.25])
    def test_the_profile_has_the_length_asked_for(self, length: float) -> None:
        """Weights of a power-function average are t^gamma: their spread by a fine sum."""
        gamma = power_gamma(length)
        t = np.linspace(0, 1, 200_001)[1:]
        weight = t**gamma / np.sum(t**gamma)
        mean = np.sum(weight * t)
        assert np.sqrt(np.sum(weight * (t - mean) ** 2)) == pytest.approx(length, rel=1e-3)

    def test_the_update_is_that_average(self) -> None:
        """Against the weighted mean of every value the parameter ever had."""
        layer = nn.Linear(1, 1, bias=False)
        average, values = EMA(layer, 0.1), []
        for step in range(1, 51):
            layer.weight.data.fill_(float(step**0.5))
            values.append(step**0.5)
            average.update(layer, step)
        keep = [1 - power_beta(step, average.gamma) for step in range(1, 51)]
        weights = [k * np.prod(1 - np.array(keep[i + 1 :])) for i, k in enumerate(keep)]
        assert np.sum(weights) == pytest.approx(1), "nothing of the initial weights is left"
        made = next(average.module.parameters()).item()
        assert made == pytest.approx(np.dot(weights, values), rel=1e-5)


class TestLatents:
    def cache(self) -> tuple[AutoencoderKL, Images, LatentCache]:
        torch.manual_seed(0)
        vae = AutoencoderKL(VAE).eval().requires_grad_(False)
        pixels = torch.randint(256, (600, 1, 16, 16), dtype=torch.uint8)
        images = Images(pixels, torch.zeros(600).long(), ("a",))
        return vae, images, cache_latents(vae, images, torch.device("cpu"))

    def test_moments_are_those_of_drawn_latents(self) -> None:
        _, _, cache = self.cache()
        everyone = torch.arange(600).repeat(20)
        drawn = cache.draw(everyone, torch.randn(12_000, *cache.shape))
        mean, std = moments(cache)
        torch.testing.assert_close(drawn.mean((0, 2, 3)).double(), mean, atol=0.01, rtol=0)
        torch.testing.assert_close(drawn.std((0, 2, 3)).double(), std, atol=0.01, rtol=0)

    def test_folding_normalises_and_changes_no_image(self) -> None:
        vae, images, cache = self.cache()
        some = images.scaled(slice(8))
        before = vae.decode(vae.encode(some).mean)
        mean, std = moments(cache)
        fold_normalisation(vae, mean, std)
        posterior = vae.encode(some)
        column = (1, -1, 1, 1)
        expected = (cache.mean[:8] - mean.view(column)) / std.view(column)
        torch.testing.assert_close(posterior.mean, expected.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(vae.decode(posterior.mean), before, rtol=1e-4, atol=1e-5)
        zero, one = moments(cache_latents(vae, images, torch.device("cpu")))
        torch.testing.assert_close(zero, torch.zeros_like(zero), atol=1e-4, rtol=0)
        torch.testing.assert_close(one, torch.ones_like(one), atol=1e-4, rtol=0)

    def test_there_must_be_something_to_fold_into(self) -> None:
        vae = AutoencoderKL(replace(VAE, use_quant_conv=False))
        with pytest.raises(ValueError, match="use_quant_conv and use_post_quant_conv must be true"):
            fold_normalisation(vae, torch.zeros(2), torch.ones(2))


class TestMetrics:
    def features(self, seed: int, count: int = 400) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        shape = torch.randn(6, 6, generator=draw, dtype=torch.float64)
        return torch.randn(count, 6, generator=draw, dtype=torch.float64) @ shape + seed

    def test_frechet_distance_with_a_matrix_square_root(self) -> None:
        a, b = self.features(0), self.features(1)
        cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
        mean = float((a.mean(0) - b.mean(0)).square().sum())
        expected = mean + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)

    def test_precision_and_recall_with_a_neighbour_search(self) -> None:
        fake, real = self.features(0, 300) * 0.5, self.features(0, 500)

        def covered(points: Tensor, manifold: Tensor) -> float:
            search = NearestNeighbors(n_neighbors=4).fit(manifold.numpy())
            radii = search.kneighbors(manifold.numpy())[0][:, 3]
            distances = torch.cdist(points, manifold).numpy()
            return float((distances <= radii[None]).any(axis=1).mean())

        expected = (covered(fake, real), covered(real, fake))
        assert precision_recall(fake, real) == pytest.approx(expected, abs=0.005)
        assert precision_recall(fake, real)[1] < 0.9, "half the spread leaves reals out"

    def test_psnr_of_a_known_error(self) -> None:
        images = torch.zeros(2, 1, 4, 4)
        assert psnr(images + 0.2, images).tolist() == pytest.approx([20.0, 20.0])


class TestJudge:
    def images(self) -> Images:
        """A bar whose place is its class."""
        pixels = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
        labels = torch.arange(400) % 4
        pixels[torch.arange(400), 0, 2 * labels] = 255
        return Images(pixels, labels, ("a", "b", "c", "d"))

    @pytest.mark.training
    def test_it_learns_and_is_trained_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images, cpu = self.images(), torch.device("cpu")
        judge = train_judge(images, tmp_path, cpu)
        features, answers = judge.measure(images.scaled())
        assert (answers == images.labels).double().mean() > 0.95
        assert features.shape == (400, 128)
        (cached,) = tmp_path.iterdir()
        assert judge.digest == hashlib.sha256(cached.read_bytes()).hexdigest()[:12]

        def trained_again(*_: object) -> None:
            raise AssertionError("the cache was not read")

        monkeypatch.setattr(classifier, "_fit", trained_again)
        again = train_judge(images, tmp_path, cpu)
        assert again.digest == judge.digest
        assert torch.equal(again.measure(images.scaled())[0], features)
        other = Images(images.pixels.roll(1, 0), images.labels, images.classes)
        with pytest.raises(AssertionError, match="the cache was not read"):
            train_judge(other, tmp_path, cpu)

    @pytest.mark.training
    def test_a_small_set_has_steps_enough(self, tmp_path: Path) -> None:
        """Eight epochs of one batch are eight steps; the digits' own number stays."""
        images = self.images()
        few = Images(images.pixels[:40], images.labels[:40], images.classes)
        judge = train_judge(few, tmp_path, torch.device("cpu"))
        _, answers = judge.measure(images.scaled())
        assert (answers == images.labels).double().mean() > 0.95

    @pytest.mark.parametrize(
        ("accuracy", "held_out", "classes", "why"),
        [
            (0.99, 1000, 10, None),
            (0.8, 100, 2, None),
            (0.79, 1000, 10, "right on 79% of the held-out images; at least 80% are needed"),
            (1.0, 99, 10, "99 held-out images tell too little; at least 100 are needed"),
            (1.0, 1000, 1, "with one class there is nothing for the classifier to learn"),
        ],
    )
    def test_figures_of_an_unfit_judge_are_marked(
        self, accuracy: float, held_out: int, classes: int, why: str | None
    ) -> None:
        said = caution(accuracy, held_out, classes)
        assert said is None if why is None else why in str(said)
        row = Row("generated", 10, 1.0, 0.5, 2.0, 0.25, 0.75)
        how = (10, 0, 0.0, "ddim", "default", "digest")
        table = Report(*how, accuracy, held_out, said, 30.0, (row,)).to_table()
        star = "" if why is None else "*"
        assert table.endswith(f"| 50.00%{star} | 2.000{star} | 0.250{star} | 0.750{star} |")


class TestLog:
    def test_reports_go_by_the_clock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every `report_seconds`; after one that took 10 s, only when 90 s of training are over."""
        now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: now)

        def measure() -> dict[str, float]:
            nonlocal now
            now += 10.0
            return {"loss": 1.0}

        with Log(tmp_path, 0, Optimisation(report_seconds=30)) as log:
            assert not log.report_due()
            now = 30.0
            assert log.report_due()
            log.report(1, measure)
            assert now == 40.0
            now = 129.0
            assert not log.report_due()
            now = 130.0
            assert log.report_due()

    def test_the_time_it_will_take_is_said_after_ten_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """At 2 s per step; the first step, which takes longer, is not counted."""
        now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        options = Optimisation(images=1000, batch_size=10)
        for first in (0, 40):
            with Log(tmp_path, first, options) as log:
                for step in range(first + 1, first + 31):
                    now += 50.0 if step == first + 1 else 2.0
                    log.step(step, {"loss": 1.0})
        said = capsys.readouterr().out.splitlines()
        assert said == ["step 10 of 100: about 3 min to go", "step 50 of 100: about 2 min to go"]

    def test_seconds_are_said_as_people_say_them(self) -> None:
        said = [duration(seconds) for seconds in (0.4, 89, 90, 720, 9000)]
        assert said == ["0 s", "89 s", "2 min", "12 min", "2.5 h"]


class TestLoop:
    @pytest.mark.training
    def test_bfloat16_trains_float32_weights(self, data_dir: Path, tmp_path: Path) -> None:
        data = DataRecipe(source="mnist", size=16)
        train, test = (load(data, data_dir, split) for split in ("train", "test"))
        losses = {}
        precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
        for precision in precisions:
            options = VAETraining(
                images=320, batch_size=16, warmup_steps=0, precision=precision, seed=1
            )
            recipe = Recipe(data, VAE, UNET, SCHEDULE, options, DiffusionTraining())
            task = VAETask(recipe, train, test, torch.device("cpu"))
            torch.manual_seed(0)
            process = Process(0, 1, torch.device("cpu"))
            made = fit(
                task, AutoencoderKL(VAE), options, {}, tmp_path / precision, process, resume=False
            )
            assert all(parameter.dtype is torch.float32 for parameter in made.parameters())
            losses[precision] = task.report(made)["loss"]
        assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
        assert losses["bfloat16"] != losses["float32"]

    def test_a_batch_that_cannot_be_filled_is_refused(self, data_dir: Path, tmp_path: Path) -> None:
        data = DataRecipe(source="mnist", size=16)
        train, test = (load(data, data_dir, split) for split in ("train", "test"))
        options = VAETraining(batch_size=65)
        recipe = Recipe(data, VAE, UNET, SCHEDULE, options, DiffusionTraining())
        task = VAETask(recipe, train, test, torch.device("cpu"))
        process = Process(0, 1, torch.device("cpu"))
        with pytest.raises(TrainingError, match="64 images do not fill a batch of 65"):
            fit(task, AutoencoderKL(VAE), options, {}, tmp_path / "run", process, resume=False)

    @pytest.mark.parametrize(
        ("size", "world", "batch"), [(500, 1, 64), (64, 1, 64), (54, 1, 54), (1, 1, 1), (54, 4, 52)]
    )
    def test_a_batch_is_never_larger_than_the_data(self, size: int, world: int, batch: int) -> None:
        process = Process(0, world, torch.device("cpu"))
        options = fit_batch(VAETraining(batch_size=64), size, process)
        assert options == VAETraining(batch_size=batch)
        process.rows(options.batch_size)

    def test_fewer_images_than_processes_are_refused(self) -> None:
        with pytest.raises(TrainingError, match="3 images to train on, for 4 processes"):
            fit_batch(VAETraining(), 3, Process(0, 4, torch.device("cpu")))

    def test_the_learning_rate_warms_up_and_follows_a_cosine(self) -> None:
        options = Optimisation(images=10_000, batch_size=10, warmup_steps=100)
        rates = [learning_rate(options, step) for step in range(1000)]
        assert rates[0] == pytest.approx(1e-5)
        assert max(rates) == rates[99] == rates[100] == pytest.approx(1e-3)
        assert rates[550] == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-6)
        assert rates[-1] == pytest.approx(1e-5, rel=0.01)

    def test_an_epoch_reads_every_image_once_in_a_new_order(self) -> None:
        epochs = [
            torch.cat([batch_indices(0, step, 8, 67) for step in range(e * 8, e * 8 + 8)])
            for e in range(2)
        ]
        assert all(len(epoch.unique()) == 64 for epoch in epochs)
        assert not torch.equal(*epochs)
        assert torch.equal(batch_indices(0, 11, 8, 67), batch_indices(0, 11, 8, 67))

    def test_seeds_differ_by_each_of_their_parts(self) -> None:
        seeds = {mix(s, p, i) for s in range(4) for p in ("a", "b", "ab") for i in range(20)}
        assert len(seeds) == 4 * 3 * 20
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert json.loads(json.dumps(max(seeds))) == max(seeds)

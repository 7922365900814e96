"""The world models: GenieRedux-G (recorded actions) and GenieRedux (latent actions). arXiv 2409.06445, 2504.02515."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from data_generation.data.errors import FieldError, under
from models import streaming
from models.base import Output
from models.components.history import corrupt, history_mask, loss_weights, target_shares
from models.components.maskgit import DecodeSettings, Generators, iterative_decode, token_distance
from models.components.processes import BatchShare
from models.components.st_transformer import Cache
from models.components.transfer import to_device
from models.config import DynamicsConfig, SampleSettings
from models.dynamics import SLIDING_FRAMES, Dynamics
from models.lam import LatentActionModel
from models.precision import forget_casts
from models.tokenizer import Tokenizer
from models.world_model import WorldModel

__all__ = ["SAMPLE_METHODS", "Chunk", "GenieRedux", "SampleSettings"]

SAMPLE_METHODS = ("one_go", "autoregressive")


@dataclass
class Chunk:
    """New frames' ids (B, N, h, w) and the last round's logits (B, N, h, w, V)."""

    ids: Tensor
    logits: Tensor


class GenieRedux(WorldModel):
    """A frozen tokenizer, a dynamics model and, in the unguided form, a latent action model, trained too or frozen."""

    sample_methods: ClassVar[tuple[str, ...]] = SAMPLE_METHODS

    def __init__(self, tokenizer: Tokenizer, dynamics: Dynamics, lam: LatentActionModel | None):
        super().__init__(tokenizer)
        if (lam is None) != dynamics.guided:
            raise ValueError("a guided dynamics model takes no LAM, an unguided one needs it")
        self.dynamics = dynamics
        self.lam = lam
        if lam is not None and lam.config.frozen:
            lam.requires_grad_(False)

    @property
    def sampling_config(self) -> DynamicsConfig | None:
        """The dynamics' configuration: schedule, order and temperature of the rounds, and the history's tokens."""
        return self.dynamics.config

    @property
    def max_frames(self) -> int:
        """Frames of the longest history, and the one after it."""
        return self.dynamics.max_frames + 1

    @property
    def history_slides(self) -> bool:
        """Whether the history of a long rollout loses its oldest frame only, and nothing is computed again for that."""
        return self.dynamics.config.shared_positions

    # ---- training -----------------------------------------------------------------------------------------------

    @property
    def takes_actions(self) -> bool:
        """The guided model takes the recorded actions, the other one infers them."""
        return self.lam is None

    def train(self, mode: bool = True) -> Self:
        """As of every module; a frozen LAM stays as it is, its dead codes too."""
        super().train(mode)
        if self.lam is not None and self.lam.config.frozen:
            self.lam.eval()
        return self

    @property
    def transition_lam(self) -> LatentActionModel | None:
        """The LAM, if it is frozen and chooses the code that predicts a transition best."""
        if self.lam is None or not self.lam.config.frozen or self.lam.config.assignment != "best":
            return None
        return self.lam

    @property
    def needs_video(self) -> bool:
        """Whether a LAM that needs whole clips, or that trains, or the loss of pixels takes frames."""
        return self.lam is not self.transition_lam or self.dynamics.config.decoder_loss_weight > 0

    def has_unused_parameters(self, num_frames: int) -> bool:
        """The dynamics always learns as a whole."""
        return self.lam is not None and not self.lam.config.frozen and self.lam.has_unused_parameters(num_frames)

    def collapse_warning(self) -> str:
        """The LAM's."""
        warning = "" if self.lam is None else self.lam.collapse_warning()
        return warning and f"{warning} (the recipe needs lam_fpath, a trained LAM, or lam.frozen=false)"

    @under("dynamics")
    def loss(
        self,
        video: Tensor | None,
        ids: Tensor,
        actions: Tensor | None,
        generator: torch.Generator | None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """As `forward`, with the frames' token ids (B, T, h, w) given. Cross-entropy where `history.loss_at` says."""
        config = self.dynamics.config
        inputs, targets = ids[:, :-1], ids[:, 1:]
        # Validation draws for the clips of one process; training for the batch of all of them.
        share = BatchShare.of_process(len(ids)) if self.training else BatchShare.whole(len(ids))
        shape = (share.total, *inputs.shape[1:])
        masks = history_mask(shape, config.history, config.min_mask_rate, inputs.device, generator)
        mask = share.own(masks)
        weights = loss_weights(mask, inputs, targets, config.history, share)
        inputs = corrupt(inputs, config.history.corruption, self.dynamics.codebook_size, generator, share)
        logs: dict[str, Tensor] = {}
        extra = torch.zeros((), device=ids.device)
        if self.lam is not None:
            actions, output = self._latent_actions(video, transition_errors, generator)
            extra, logs = output.loss, logs | output.logs
        assert actions is not None
        surplus: Tensor | None = None
        if config.history.continued > 0:
            inputs, surplus = self._continued(inputs, actions, generator, share)
            forget_casts()
            surplus = None if surplus is None else surplus.masked_fill(mask.unsqueeze(-1), 0)
        logits = self.dynamics(inputs, mask, actions, self.token_input(inputs), surplus)
        shares = target_shares(mask, config.history, share)
        token_loss, token_logs = self.token_loss(logits, targets, weights, shares)
        loss = token_loss + extra
        if config.decoder_loss_weight > 0:
            assert video is not None
            decoder_loss = self._decoder_loss(logits, ids[:, :1], video)
            loss = loss + config.decoder_loss_weight * decoder_loss
            logs["decoder_loss"] = decoder_loss.detach()
        token_logs = {"loss": loss.detach(), **token_logs}
        if config.history.loss_at == "masked":
            # Where no clip of any process has a masked token, the loss of tokens is not 0: there is none.
            token_logs = {name: value.where(masks.any(), torch.nan) for name, value in token_logs.items()}
        return Output(loss, token_logs | logs)

    def _latent_actions(
        self, video: Tensor | None, transition_errors: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Output]:
        """What the dynamics takes for the clips' own latent actions, and the LAM's loss: none where it is frozen."""
        assert self.lam is not None
        if self.lam.config.frozen:
            if transition_errors is not None:
                ids = self.lam.choose(transition_errors)
            else:
                assert video is not None
                ids = self.infer_actions(video)
            return self.action_input(ids), Output(torch.zeros((), device=ids.device), {})
        assert video is not None
        latent = self.lam.infer(video, generator)
        actions = latent.quantized.ids if self.dynamics.takes_action_ids else latent.quantized.output
        return actions, self.lam.loss(video, latent)

    @torch.no_grad()
    def _continued(
        self, ids: Tensor, action_input: Tensor, generator: torch.Generator | None, share: BatchShare
    ) -> tuple[Tensor, Tensor | None]:
        """Token ids (B, T, h, w) of which the model predicts a share `history.continued` of the clips, as in play.

        Such a clip keeps its first 1 to T-1 frames. Targets stay the recorded ones, so that it learns to return.
        Also the ids' surplus (B, T, h, w, D), 0 where they are kept (`history_surplus`).
        """
        num_frames = ids.shape[1]
        chosen, start = share.own(torch.rand(share.total, 2, generator=generator)).unbind(dim=1)
        num_kept = 1 + (start * (num_frames - 1)).long()
        num_kept = torch.where(chosen < self.dynamics.config.history.continued, num_kept, num_frames)
        num_kept = to_device(num_kept, ids.device)
        cache, history = Cache(), [ids[:, :1]]
        surpluses: list[Tensor | None] = [None]
        for frame in range(1, num_frames):
            last = action_input[:, frame - 1 : frame]
            logits, cache = self.append_frames(history[-1], last, cache, surpluses[-1])
            is_kept, drawn = (frame < num_kept).view(-1, 1, 1, 1), logits.argmax(dim=-1)
            history.append(torch.where(is_kept, ids[:, frame : frame + 1], drawn))
            surplus = self.history_surplus(logits, drawn)
            surpluses.append(None if surplus is None else surplus.masked_fill(is_kept.unsqueeze(-1), 0))
        found = [surplus for surplus in surpluses if surplus is not None]
        if not found:
            return torch.cat(history, dim=1), None
        return torch.cat(history, dim=1), torch.cat([torch.zeros_like(found[0]), *found], dim=1)

    def token_loss(
        self, logits: Tensor, targets: Tensor, weight: Tensor, shares: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of logits (B, T, h, w, V) against targets (B, T, h, w), weighted (B, T, h, w), and its logs.

        `shares` (B, T, h, w): the weights of the logged accuracy.
        """
        config = self.dynamics.config
        logits = logits.float()  # argmax takes several times as long in bf16
        entropy = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
        loss = cross_entropy = (entropy * weight.flatten()).sum()
        correct = (logits.argmax(dim=-1) == targets).float()
        logs = {"cross_entropy": cross_entropy.detach(), "token_accuracy": (correct * shares).sum()}
        if config.loss == "tdce":
            distance = (token_distance(logits, targets, self.tokenizer.quantizer.directions) * weight).sum()
            loss = loss + config.tdce_weight * distance
            logs["token_distance"] = distance.detach()
        return loss, logs

    def _decoder_loss(self, logits: Tensor, first_ids: Tensor, video: Tensor) -> Tensor:
        """Pixel error of the predicted frames, with a straight-through gradient to the predicted distribution."""
        codebook = self.tokenizer.quantizer.codebook
        soft = torch.softmax(logits.float(), dim=-1) @ codebook
        hard = F.embedding(logits.argmax(dim=-1), codebook)
        codes = torch.cat([F.embedding(first_ids, codebook), soft + (hard - soft).detach()], dim=1)
        return F.mse_loss(self.tokenizer.decode_codes(codes)[:, 1:].float(), video[:, 1:].float())

    def token_input(self, ids: Tensor) -> Tensor | None:
        """The codes (B, T, h, w, D) of ids (B, T, h, w) for the dynamics; None without `dynamics.use_token`."""
        return self.tokenizer.quantizer.decode(ids) if self.dynamics.use_token else None

    # ---- sampling -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def infer_actions(self, video: Tensor) -> Tensor:
        """Latent action ids (B, T-1) of frames (B, T, C, H, W); unguided models only."""
        if self.lam is None:
            raise ValueError("a guided model takes recorded actions: it has no latent action model to infer them with")
        return self.lam.infer_actions(video)

    def conditioning_actions(self, video: Tensor, actions: Tensor) -> Tensor:
        """Action ids (B, T-1) under which clips are replicated: the recorded ones, or latent ones of the whole clip."""
        return actions if self.lam is None else self.infer_actions(video)

    @property
    def action_codes(self) -> Tensor | None:
        """The LAM's; None for a guided model."""
        return None if self.lam is None else self.lam.action_codes

    @property
    def num_actions(self) -> int:
        """Number of actions that `sample` accepts."""
        return self.lam.config.num_actions if self.lam is not None else self.dynamics.action_dim

    def action_input(self, actions: Tensor) -> Tensor:
        """What the dynamics takes for action ids (B, T): the ids, or the latent actions' vectors (B, T, D)."""
        if self.lam is None or self.dynamics.takes_action_ids:
            return actions
        return self.lam.quantizer.decode(actions)

    @torch.no_grad()
    def sample(
        self,
        prime_frames: Tensor,
        actions: Tensor,
        num_frames: int,
        settings: SampleSettings,
        generators: Generators = None,
    ) -> Tensor:
        """Continue prime frames (B, P, C, H, W) by exactly `num_frames` frames (B, N, C, H, W), not clamped.

        actions (B, P-1+N): ids of all transitions (latent ids for an unguided model). `generators`: one, or one per
        sample.
        """
        prime_ids = self.tokenizer.encode(prime_frames)
        chunks = [chunk.ids for chunk in self.sample_chunks(prime_ids, actions, num_frames, settings, generators)]
        return self.tokenizer.decode(torch.cat([prime_ids, *chunks], dim=1))[:, -num_frames:]

    @torch.no_grad()
    def sample_chunks(
        self,
        prime_ids: Tensor,
        actions: Tensor,
        num_frames: int,
        settings: SampleSettings,
        generators: Generators = None,
    ) -> Iterator[Chunk]:
        """The chunks of new frames after prime ids (B, P, h, w), `num_frames` frames in all."""
        num_prime = prime_ids.shape[1]
        if num_prime < 1 or actions.shape[1] != num_prime - 1 + num_frames:
            raise ValueError(
                f"{num_prime} prime and {num_frames} new frames need {num_prime - 1 + num_frames} actions, "
                f"got {actions.shape[1]}"
            )
        if settings.method not in SAMPLE_METHODS:
            raise FieldError("inference_method", settings.method, "is unknown", f"use {' or '.join(SAMPLE_METHODS)}")
        length = num_frames if settings.method == "one_go" else settings.dream_length
        action_input = self.action_input(actions)
        temperature = self.dynamics.config.sample_temperature if settings.temperature is None else settings.temperature
        config = self.dynamics.config
        decode = DecodeSettings(settings.inference_steps, temperature, config.mask_schedule, config.unmask_order)
        cache, pending, surplus = Cache(), prime_ids, None
        for start in range(0, num_frames, length):
            count = min(length, num_frames - start)
            first = cache.num_frames
            pending_actions = action_input[:, first : first + pending.shape[1]]
            logits, cache = self.append_frames(pending, pending_actions, cache, surplus)
            later = action_input[:, cache.num_frames : cache.num_frames + count - 1]
            with under("dynamics"):
                ids, chunk_logits = iterative_decode(
                    logits[:, -1:], count, self._later_logits(later, cache), decode, generators
                )
            yield Chunk(ids, chunk_logits)
            # Tokens that are unmasked in rounds are not the expectation of any one distribution.
            pending, surplus = ids, self.history_surplus(chunk_logits, ids) if count == 1 else None

    @torch.no_grad()
    def masked_features(self, prime_ids: Tensor, actions: Tensor, num_frames: int) -> Tensor:
        """Hidden tokens (B, N, h, w, width) for N = `num_frames` frames after prime ids (B, P, h, w), in one pass.

        All tokens of the new frames are masked: what the model expects before any is unmasked. actions (B, P-1+N):
        ids, latent ones for an unguided model. `dynamics.to_logits` makes the new frames' logits of it.
        """
        num_prime = prime_ids.shape[1]
        masked = prime_ids.new_zeros(prime_ids.shape[0], num_frames - 1, *prime_ids.shape[2:])
        ids = torch.cat([prime_ids, masked], dim=1)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, num_prime:] = True
        return self.dynamics.features(ids, mask, self.action_input(actions), self.token_input(ids))[:, num_prime - 1 :]

    @torch.no_grad()
    def known_features(self, ids: Tensor, actions: Tensor) -> Tensor:
        """Hidden tokens (B, T, h, w, width) of frames with known ids (B, T, h, w) and action ids (B, T).

        No token is masked; those at frame t are about frame t + 1.
        """
        mask = torch.zeros_like(ids, dtype=torch.bool)
        return self.dynamics.features(ids, mask, self.action_input(actions), self.token_input(ids))

    @torch.no_grad()
    def predict_tokens(self, video: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T-1, h, w, V) for the tokens of frames 2, 3, … of videos (B, T, C, H, W), and all token ids.

        Each frame is predicted from the recorded ones before it and action ids (B, T-1). The ids are (B, T, h, w).
        """
        ids = self.tokenizer.encode(video)
        return self.dynamics.to_logits(self.known_features(ids[:, :-1], actions)), ids

    @torch.no_grad()
    def start(
        self,
        prime_frames: Tensor,
        actions: Tensor | None = None,
        window: int | None = None,
    ) -> streaming.StreamState:
        """Begin an interactive rollout after prime frames (B, P, C, H, W); `step` continues it.

        actions (B, P-1): ids of the transitions between the prime frames. None: there are none (P = 1), or an unguided
        model infers them. `window`: frames of history, None = what `dynamics.max_seq_len` allows.
        """
        num_prime = prime_frames.shape[1]
        if actions is None and num_prime > 1:
            if self.lam is None:
                raise ValueError(f"{num_prime} prime frames need the {num_prime - 1} actions between them")
            actions = self.infer_actions(prime_frames)
        if actions is None:
            actions = torch.zeros(len(prime_frames), 0, dtype=torch.int64, device=prime_frames.device)
        ids = self.tokenizer.encode(prime_frames)
        longest = self.dynamics.max_frames
        window = longest if window is None else min(window, longest)
        if self.history_slides:
            window = max(window, SLIDING_FRAMES)
        return streaming.start(self, ids, self.action_input(actions), window)

    @torch.no_grad()
    def step(self, state: streaming.StreamState, action: Tensor) -> tuple[Tensor, streaming.StreamState]:
        """The next frame (B, C, H, W), not clamped, after action ids (B,), and the state after it."""
        return streaming.step(self, state, self.action_input(action.unsqueeze(1)))

    @under("dynamics")
    def append_frames(
        self, ids: Tensor, action_input: Tensor, cache: Cache, surplus: Tensor | None = None
    ) -> tuple[Tensor, Cache]:
        """Append frames with known ids (B, T, h, w) to `cache`: logits of the frames after them, the longer cache.

        `surplus`: of frames that were predicted (`history_surplus`); None where they were recorded.
        """
        mask = torch.zeros_like(ids, dtype=torch.bool)
        return self.dynamics.extend(ids, mask, action_input, self.token_input(ids), cache, surplus)

    def history_surplus(self, logits: Tensor, ids: Tensor) -> Tensor | None:
        """What is added to the embeddings (..., D) of predicted ids (...) in the history: logits (..., V) are of them.

        None where the history has the likeliest tokens alone (`dynamics.history_tokens`).
        """
        if self.dynamics.config.history_tokens == "likeliest":
            return None
        every_id = torch.arange(self.dynamics.codebook_size, device=ids.device)
        return self.dynamics.expected_surplus(logits, ids, self.token_input(every_id))

    def _later_logits(self, action_input: Tensor, cache: Cache) -> Callable[[Tensor, Tensor], Tensor]:
        """The function that `iterative_decode` calls each round; the cache of the known frames serves every round."""

        def logits(ids: Tensor, mask: Tensor) -> Tensor:
            return self.dynamics.extend(ids, mask, action_input, self.token_input(ids), cache)[0]

        return logits

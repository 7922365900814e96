"""Latent action model (Genie: Bruce et al. 2024, section 2.1; arXiv 2409.06445, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.base import Model, Output, Prediction, Rollout
from models.components.patch_embedding import PatchEmbedding, PixelHead
from models.components.position import ContinuousPositionBias
from models.components.processes import BatchShare
from models.components.st_transformer import STTransformer
from models.components.vector_quantize import CodeShares, Quantized, VectorQuantizer, perplexity, used_share
from models.config import LamConfig, TokenizerConfig
from models.precision import forget_casts

# Of errors as shares of the change between frames, where they are likelihoods; and rounds of `balanced_choice`.
_TEMPERATURE, _ROUNDS = 0.15, 3
# Mean squared change between frames that counts as none: keeps the loss of a batch in which nothing moves finite.
_STILL = 1e-5
# Prefix of the measures of the frame before, repeated.
PREVIOUS = "copy_previous_"
# Latent actions count as collapsed when fewer are in use, effectively, over about so many batches.
COLLAPSE_PERPLEXITY, COLLAPSE_STEPS = 1.2, 100


@dataclass
class Context:
    """What decoding needs besides actions: frames 0..T-2 (B, T-1, C, H, W), their patches (B, T-1, h, w, D), bias.

    With `assignment` best each transition is a clip of its own: (B (T-1), 1, …).
    """

    frames: Tensor
    patches: Tensor
    bias: Tensor


@dataclass
class LatentActions:
    """Actions of T - 1 transitions, quantised (output (B, T-1, D), ids (B, T-1), loss), and the frames before them.

    `errors` (B, T-1, K+1): the transitions' errors, where they decide (`assignment` best); see `transition_errors`.
    """

    quantized: Quantized
    context: Context
    errors: Tensor | None = None


class LatentActionModel(Model):
    """Names the change between neighbouring frames by one of `num_actions` codes, learned from video alone."""

    min_frames = 2

    def __init__(self, config: LamConfig, tokenizer_config: TokenizerConfig):
        super().__init__()
        self.config, self.tokenizer_config = config, tokenizer_config
        self.grid = tokenizer_config.image_size // tokenizer_config.patch_size
        self.patch_embedding = PatchEmbedding(tokenizer_config, config.dim)
        # Shared by encoder and decoder.
        self.position_bias = ContinuousPositionBias(config.dim, config.heads)
        self.encoder = STTransformer(config, "st")
        self.to_action = nn.Sequential(nn.Linear(self.grid**2 * config.dim, config.dim), nn.LayerNorm(config.dim))
        self.quantizer = VectorQuantizer(
            config.dim, config.num_actions, config.codebook_dim, config.commitment_weight, config.dead_code_threshold
        )
        self.code_shares = CodeShares(config.num_actions, COLLAPSE_STEPS)
        self.decoder = STTransformer(config, "ts")
        self.to_pixels = PixelHead(tokenizer_config, config.dim)
        if config.predict_change:
            # Training starts from a repeated frame.
            for parameter in self.to_pixels.parameters():
                nn.init.zeros_(parameter)

    def infer(self, video: Tensor, generator: torch.Generator | None = None) -> LatentActions:
        """Latent actions between the frames (B, T, C, H, W); `generator` is for the dead-code reset."""
        if self.config.assignment == "best":
            context = self._transitions(video)
            errors = self._errors(video, context)
            forget_casts()
            ids = self.choose(errors)
            return LatentActions(Quantized(self.quantizer.decode(ids), ids, errors.new_zeros(())), context, errors)
        bias = self.position_bias(self.grid, self.grid)
        patches = self.patch_embedding(video)
        context = Context(video[:, :-1], patches[:, :-1], bias)
        encoded = self.encoder(patches, bias)
        vectors = self.to_action(rearrange(encoded, "b t h w d -> b t (h w d)"))
        return LatentActions(self.quantizer(vectors[:, 1:], generator), context)

    def _transitions(self, video: Tensor) -> Context:
        """Each transition of video (B, T, C, H, W) as a clip of its own."""
        # What came before says much of what comes next: with it, a code would matter less the longer the clip.
        before = video[:, :-1].flatten(0, 1).unsqueeze(1)
        return Context(before, self.patch_embedding(before), self.position_bias(self.grid, self.grid))

    @torch.no_grad()
    def transition_errors(self, video: Tensor) -> Tensor:
        """Mean squared errors (B, T-1, K+1) float32 of the frames 1..T-1 of video (B, T, C, H, W) in [0, 1].

        As each of the K codes predicts them from the frame before, and last as that frame itself, repeated. Those of a
        transition depend on its two frames alone. They are all that `choose` needs (`assignment` best).
        """
        return self._errors(video, self._transitions(video))

    @torch.no_grad()
    def _errors(self, video: Tensor, context: Context) -> Tensor:
        shape = (video.shape[0], video.shape[1] - 1)
        codes = (torch.full(shape, k, device=video.device) for k in range(self.config.num_actions))
        decoded = (self.decode(context, self.quantizer.decode(ids)) for ids in codes)
        predicted = [_mean_square(frames - video[:, 1:]) for frames in decoded]
        return torch.stack([*predicted, _mean_square(video[:, 1:] - video[:, :-1])], dim=-1)

    @torch.no_grad()
    def choose(self, errors: Tensor) -> Tensor:
        """The codes (B, T-1) of transitions with these `transition_errors` (B, T-1, K+1); each clip by itself."""
        predicted, repeated = errors[..., :-1], errors[..., -1]
        if self.config.persistence == 0:
            return predicted.argmin(dim=-1)
        change = repeated + _STILL
        mean, floor = change.mean(dim=1, keepdim=True), self.config.change_floor
        scale = mean if floor is None else change + floor * mean
        likelihood = -predicted / scale.unsqueeze(-1) / _TEMPERATURE
        return likeliest_given_all(likelihood, self.config.persistence).argmax(dim=-1)

    def decode(self, context: Context, actions: Tensor) -> Tensor:
        """Frames 1..T-1 (B, T-1, C, H, W) from the frames before them and action vectors (B, T-1, D)."""
        shape = context.frames.shape[:2]
        tokens = context.patches + actions.view(*shape, 1, 1, -1)
        pixels = self.to_pixels(self.decoder(tokens, context.bias))
        frames = context.frames + pixels if self.config.predict_change else pixels
        return frames.view(*actions.shape[:2], *frames.shape[2:])

    def reconstruct(self, video: Tensor, actions: Tensor | None = None) -> Tensor:
        """Predict frames 1..T-1 of video (B, T, C, H, W) with its own latent actions or given ids (B, T-1)."""
        latent = self.infer(video)
        vectors = latent.quantized.output if actions is None else self.quantizer.decode(actions)
        return self.decode(latent.context, vectors)

    def loss(self, video: Tensor, latent: LatentActions) -> Output:
        """vq_loss_weight * vq + reconstruction_weight * error of the predicted frames, of video (B, T, C, H, W).

        With `assignment` best there is no vq loss, and what is decoded are the best codes in about equal shares.
        """
        config = self.config
        if self.training:
            self.code_shares.update(latent.quantized.ids)
        vectors, change = latent.quantized.output, self._change(video)
        if latent.errors is not None:
            best = balanced_choice((latent.errors[..., :-1] / change.unsqueeze(-1)).flatten(0, 1))
            vectors = self.quantizer.decode(best.view_as(latent.quantized.ids))
        loss = config.vq_loss_weight * latent.quantized.loss
        logs = {
            "lam_vq_loss": latent.quantized.loss.detach(),
            "lam_perplexity": perplexity(latent.quantized.ids, config.num_actions),
            "lam_used": used_share(latent.quantized.ids, config.num_actions),
        }
        if config.reconstruction_weight > 0:
            prediction = self.decode(latent.context, vectors).float()
            if config.change_floor is None:
                recons_loss = F.mse_loss(prediction, video[:, 1:].float())
            else:
                recons_loss = (_mean_square(prediction - video[:, 1:]) / change).mean()
            loss = loss + config.reconstruction_weight * recons_loss
            logs["lam_recons_loss"] = recons_loss.detach()
        return Output(loss, {"lam_loss": loss.detach(), **logs})

    def _change(self, video: Tensor) -> Tensor:
        """What errors are compared with, (B, T-1): the batch's mean change, or each transition's own and some of it.

        In training, the batch is that of all processes.
        """
        change = _mean_square(video[:, 1:] - video[:, :-1]) + _STILL
        mean, floor = change.mean(), self.config.change_floor
        if self.training:
            mean = BatchShare.of_process(len(video)).mean(mean)
        mean = mean.expand_as(change)
        return mean if floor is None else change + floor * mean

    def forward(
        self,
        video: Tensor | None,
        actions: Tensor | None = None,
        generator: torch.Generator | None = None,
        ids: Tensor | None = None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """Training loss of the LAM alone on frames (B, T, C, H, W)."""
        assert video is not None
        return self.loss(video, self.infer(video, generator))

    def predict(
        self, video: Tensor, actions: Tensor, rollout: Rollout, generators: Sequence[torch.Generator]
    ) -> Prediction:
        """Frames 1..T-1 of the clips (B, T, C, H, W), each from the frames before it and its own latent action.

        Compared with the frame before, repeated.
        """
        before = video[:, :-1]
        others = {PREVIOUS: before}
        return Prediction(self.reconstruct(video).float(), video[:, 1:], 1, others=others, reference=before)

    def has_unused_parameters(self, num_frames: int) -> bool:
        """Whether the encoder, the decoder or its pixel head of later frames gets no gradient."""
        return num_frames <= 2 or self.config.reconstruction_weight <= 0 or self.config.assignment == "best"

    def collapse_warning(self) -> str:
        """Latent actions that have collapsed: nearly all transitions get the same one."""
        used = self.code_shares.perplexity()
        if used >= COLLAPSE_PERPLEXITY or self.config.num_actions == 1:
            return ""
        return (
            f"the latent actions have collapsed: effectively {used:.2f} of lam.num_actions={self.config.num_actions} "
            f"are in use, so none means anything. Start again with recipe=tuned or a lower optimizer.learning_rate"
        )

    @property
    def action_codes(self) -> Tensor:
        """Vectors (K, d) of the latent actions."""
        return self.quantizer.codebook

    @torch.no_grad()
    def infer_actions(self, video: Tensor) -> Tensor:
        """Latent action ids (B, T-1) of frames (B, T, C, H, W)."""
        return self.infer(video).quantized.ids


def _mean_square(difference: Tensor) -> Tensor:
    """Of frames (B, T, C, H, W): (B, T)."""
    return difference.float().square().mean(dim=(2, 3, 4))


def balanced_choice(errors: Tensor) -> Tensor:
    """For each row of errors (n, K) a column (n,) with a small error, each column about equally often.

    Sinkhorn's algorithm, as in SwAV (Caron et al. 2020, arXiv 2006.09882, section 3.1).
    """
    share = torch.exp((errors.amin(dim=1, keepdim=True) - errors) / _TEMPERATURE)
    for _ in range(_ROUNDS):
        share = share / (share.sum(dim=0) + 1e-12)
        share = share / share.sum(dim=1, keepdim=True)
    return share.argmax(dim=1)


def likeliest_given_all(log_likelihood: Tensor, persistence: float) -> Tensor:
    """Log posterior (B, T, K) of K states that last with this probability, given all T observations of a sequence.

    log_likelihood (B, T, K): of each observation in each state, up to a constant. A state that does not last is
    followed by any other alike. The forward-backward algorithm (Rabiner 1989, section III).
    """
    num_states = log_likelihood.shape[-1]
    others = (1 - persistence) / max(1, num_states - 1)
    transition = torch.full((num_states, num_states), others, device=log_likelihood.device)
    transition = transition.fill_diagonal_(persistence).log()
    before = [log_likelihood[:, 0]]
    for now in log_likelihood.unbind(1)[1:]:
        before.append(torch.logsumexp(before[-1].unsqueeze(2) + transition, dim=1) + now)
    after = [torch.zeros_like(before[0])]
    for later in log_likelihood.flip(1).unbind(1)[:-1]:
        after.append(torch.logsumexp(transition + (later + after[-1]).unsqueeze(1), dim=2))
    return (torch.stack(before, dim=1) + torch.stack(after[::-1], dim=1)).log_softmax(dim=-1)

"""A plain causal transformer over token ids, as GPT and IRIS (arXiv 2209.00588): a baseline for GenieRedux-G."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from data_generation.data.errors import UNSET, FieldError, under
from models.base import Output
from models.components.attention import SCALE, Attention
from models.components.maskgit import Generators
from models.components.recompute import recompute
from models.components.st_transformer import Cache, FeedForward
from models.config import DynamicsConfig, SampleSettings, TokenizerConfig
from models.streaming import num_kept
from models.tokenizer import Tokenizer
from models.world_model import WorldModel

# What only MaskGIT dynamics can train with. Other settings of theirs, which recipes choose, have no effect here.
_ONLY_MASKGIT = ("decoder_loss_weight", "history.corruption", "history.continued")


@dataclass(frozen=True)
class KeysValues:
    """The KV cache of one layer: (B, heads, n, dim_head) of n tokens. A value."""

    keys: Tensor
    values: Tensor


class CausalLayer(nn.Module):
    """Attention to all tokens before and feed-forward, each a residual update."""

    def __init__(self, config: DynamicsConfig):
        super().__init__()
        self.attention = Attention(config, config.dim)
        self.feed_forward = FeedForward(config.dim, config.ff_mult)

    def forward(self, x: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """Update tokens x (B, n, D): the first ones, or a single one (n = 1) after those of `past`."""
        q, k, v = (rearrange(part, "b n heads d -> b heads n d") for part in self.attention.project(x))
        if past is not None:
            k, v = torch.cat([past.keys, k], dim=-2), torch.cat([past.values, v], dim=-2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=past is None, scale=SCALE)
        x = x + self.attention.to_out(rearrange(out, "b heads n d -> b n (heads d)"))
        return x + self.feed_forward(x), KeysValues(k, v)


class CausalTransformer(nn.Module):
    """Logits of each token from all tokens before it: those of earlier frames, and of its own in raster order.

    The input at a place is the token before, to which the embeddings of the place's frame, of its position in it and of
    the action that leads to its frame are added. So an action costs no further token, and each prediction reads it.
    """

    def __init__(self, config: DynamicsConfig, tokenizer_config: TokenizerConfig):
        super().__init__()
        if not config.action_dim:
            problem = "is not set, but a guided model needs the dataset's number of actions"
            raise FieldError("action_dim", UNSET, problem, "set it")
        _check(config)
        self.config, self.action_dim = config, config.action_dim
        self.grid = tokenizer_config.image_size // tokenizer_config.patch_size
        self.token_embedding = nn.Embedding(tokenizer_config.codebook_size, config.dim)
        # The last one stands for no action: that of a history's first frame.
        self.action_embedding = nn.Embedding(config.action_dim + 1, config.dim)
        self.frame_embedding = nn.Embedding(self.max_frames + 1, config.dim)
        self.place_embedding = nn.Embedding(self.grid**2, config.dim)
        self.layers = nn.ModuleList([CausalLayer(config) for _ in range(config.num_blocks)])
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.to_logits = nn.Linear(config.dim, tokenizer_config.codebook_size)

    @property
    def max_frames(self) -> int:
        """Longest history in frames: one more can be predicted."""
        return self.config.max_seq_len // self.grid**2

    def forward(self, ids: Tensor, actions: Tensor) -> Tensor:
        """Logits (B, T-1, h, w, V) of frames 2, 3, … of ids (B, T, h, w), with actions (B, T-1) between the frames."""
        x = self._history(ids, actions)
        run = recompute(_without_cache, self.config.gradient_checkpointing if torch.is_grad_enabled() else "none")
        for layer in self.layers:
            x = run(layer, x)
        logits = self.to_logits(self.norm(x[:, self.grid**2 - 1 :]))
        return rearrange(logits, "b (t h w) v -> b t h w v", h=self.grid, w=self.grid)

    def begin(self, ids: Tensor, actions: Tensor) -> list[KeysValues]:
        """The cache of frames with ids (B, T, h, w) and actions (B, T-1) between them, but for the last token."""
        return self._extend(self._history(ids, actions), None)[1]

    def append_frame(
        self, last_ids: Tensor, action: Tensor, number: int, cache: Sequence[KeysValues]
    ) -> tuple[Tensor, list[KeysValues]]:
        """The likeliest ids (B, 1, h, w) of the frame `number` of a history, token by token, and the longer cache.

        last_ids (B, h, w): of the frame before, whose last token is not in the cache yet. action (B, 1): leads to it.
        """
        added, tokens, extended = self._added(action, number), [last_ids[:, -1, -1:]], list(cache)
        for place in range(self.grid**2):
            x = self.token_embedding(tokens[-1]) + added[:, place : place + 1]
            x, extended = self._extend(x, extended)
            tokens.append(self.to_logits(self.norm(x)).float().argmax(dim=-1))
        ids = torch.cat(tokens[1:], dim=1)
        return rearrange(ids, "b (h w) -> b 1 h w", h=self.grid), extended

    def _history(self, ids: Tensor, actions: Tensor) -> Tensor:
        """The inputs (B, T·h·w - 1, D) at all places of frames (B, T, h, w) but the first."""
        tokens = self.token_embedding(rearrange(ids, "b t h w -> b (t h w)")[:, :-1])
        return tokens + self._added(F.pad(actions, (1, 0), value=self.action_dim), 0)[:, 1:]

    def _added(self, actions: Tensor, first: int) -> Tensor:
        """What is added to the tokens before the places of n frames from number `first` on: (B, n·h·w, D).

        actions (B, n) lead to these frames.
        """
        end = first + actions.shape[1]
        if end > self.max_frames + 1:
            problem = f"{end - 1} frames of {self.grid**2} tokens before the last one exceed it"
            remedy = f"use at most {self.max_frames + 1} frames"
            raise FieldError("max_seq_len", self.config.max_seq_len, problem, remedy)
        frames = self.action_embedding(actions) + self.frame_embedding.weight[first:end]
        return rearrange(rearrange(frames, "b t d -> b t 1 d") + self.place_embedding.weight, "b t n d -> b (t n) d")

    def _extend(self, x: Tensor, cache: Sequence[KeysValues] | None) -> tuple[Tensor, list[KeysValues]]:
        """Transform the first tokens, or a single one after those of `cache`."""
        extended = []
        for number, layer in enumerate(self.layers):
            x, known = layer(x, cache[number] if cache else None)
            extended.append(known)
        return x, extended


def _without_cache(layer: CausalLayer, x: Tensor) -> Tensor:
    return layer(x)[0]


def _check(config: DynamicsConfig) -> None:
    """FieldError for a loss, or a way to train, that only MaskGIT dynamics have."""
    for name in _ONLY_MASKGIT:
        value, default = (attrgetter(name)(of) for of in (config, DynamicsConfig()))
        if value != default:
            problem = "is for MaskGIT dynamics, not for a causal transformer"
            raise FieldError(name, value, problem, f"set {{{name}}}={default}")


@dataclass(frozen=True)
class CausalState:
    """Where a rollout stands. A value: stepping returns a new one.

    `ids` (B, T, h, w) and `actions` (B, T-1) are the history of at most `window` frames (2 where it is 1); `cache`
    holds all of its tokens but the last, which waits for the action after it; the decoder's cache holds all frames.
    """

    ids: Tensor
    actions: Tensor
    cache: list[KeysValues]
    decoder: Cache
    window: int


class CausalWorldModel(WorldModel):
    """A frozen tokenizer and a causal transformer that predicts the tokens of the next frame one after the other."""

    sample_methods: ClassVar[tuple[str, ...]] = ("autoregressive",)

    def __init__(self, tokenizer: Tokenizer, dynamics: CausalTransformer):
        super().__init__(tokenizer)
        self.dynamics = dynamics

    @property
    def max_frames(self) -> int:
        """Frames of the longest history, and the one after it."""
        return self.dynamics.max_frames + 1

    @property
    def takes_actions(self) -> bool:
        """The recorded ones."""
        return True

    @property
    def needs_video(self) -> bool:
        """The loss is of token ids alone."""
        return False

    @property
    def num_actions(self) -> int:
        """Number of actions that `sample` accepts."""
        return self.dynamics.action_dim

    def trained_layers(self) -> list[nn.Module]:
        """The layers of the transformer."""
        return list(self.dynamics.layers)

    def trained_matrices(self) -> list[Tensor]:
        """The weights of their linear layers."""
        return [module.weight for module in self.dynamics.layers.modules() if isinstance(module, nn.Linear)]

    @under("dynamics")
    def loss(
        self,
        video: Tensor | None,
        ids: Tensor,
        actions: Tensor | None,
        generator: torch.Generator | None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """Cross-entropy of all tokens of frames 2, 3, … of ids (B, T, h, w), each after the recorded ones before it."""
        assert actions is not None
        logits, targets = self.dynamics(ids, actions).float(), ids[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        accuracy = (logits.argmax(dim=-1) == targets).float().mean()
        return Output(loss, {"loss": loss.detach(), "cross_entropy": loss.detach(), "token_accuracy": accuracy})

    @torch.no_grad()
    def sample(
        self,
        prime_frames: Tensor,
        actions: Tensor,
        num_frames: int,
        settings: SampleSettings,
        generators: Generators = None,
    ) -> Tensor:
        """As of every world model; each token is the likeliest one, so that `generators` are not used.

        As in the autoregressive sampling of MaskGIT dynamics, where a single next frame takes the likeliest tokens at
        any temperature. Where `max_seq_len` is exceeded, the older half of the history is dropped.
        """
        if settings.method not in self.sample_methods:
            remedy = f"use {' or '.join(self.sample_methods)}"
            raise FieldError("inference_method", settings.method, "is not for a causal transformer", remedy)
        num_known = prime_frames.shape[1] - 1
        if actions.shape[1] != num_known + num_frames:
            raise ValueError(f"{num_known + num_frames} actions are needed, got {actions.shape[1]}")
        # Not `max_frames`: the full history is used before a part of it is dropped.
        state = self._start(self.tokenizer.encode(prime_frames), actions[:, :num_known], self.dynamics.max_frames + 1)
        frames = []
        for action in actions[:, num_known:].unbind(dim=1):
            frame, state = self.step(state, action)
            frames.append(frame)
        return torch.stack(frames, dim=1)

    @torch.no_grad()
    @under("dynamics")
    def predict_tokens(self, video: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """As of every world model; each token is also predicted from the recorded ones before it in its own frame."""
        ids = self.tokenizer.encode(video)
        return self.dynamics(ids, actions), ids

    @torch.no_grad()
    def start(self, prime_frames: Tensor, actions: Tensor | None = None, window: int | None = None) -> CausalState:
        """As of every world model."""
        num_prime, longest = prime_frames.shape[1], self.dynamics.max_frames
        if actions is None:
            if num_prime > 1:
                raise ValueError(f"{num_prime} prime frames need the {num_prime - 1} actions between them")
            actions = torch.zeros(len(prime_frames), 0, dtype=torch.int64, device=prime_frames.device)
        return self._start(self.tokenizer.encode(prime_frames), actions, min(window or longest, longest))

    @torch.no_grad()
    def step(self, state: CausalState, action: Tensor) -> tuple[Tensor, CausalState]:
        """As of every world model. When the history is full, its older half is dropped (`models.streaming.step`)."""
        if state.ids.shape[1] >= state.window:
            keep = num_kept(state.window)
            state = self._start(state.ids[:, -keep:], state.actions, state.window)
        action = action.unsqueeze(1)
        ids, cache = self.dynamics.append_frame(state.ids[:, -1], action, state.ids.shape[1], state.cache)
        decoded = self.tokenizer.decode_next(ids, state.decoder)
        history, actions = torch.cat([state.ids, ids], dim=1), torch.cat([state.actions, action], dim=1)
        return decoded.video[:, 0], CausalState(history, actions, cache, decoded.cache, state.window)

    def _start(self, ids: Tensor, actions: Tensor, window: int) -> CausalState:
        """The state after the newest frames, at most `window`, of ids (B, P, h, w); the newest actions are between."""
        ids = ids[:, -window:]
        actions = actions[:, actions.shape[1] - (ids.shape[1] - 1) :]
        decoder = self.tokenizer.decode_next(ids, Cache()).cache
        return CausalState(ids, actions, self.dynamics.begin(ids, actions), decoder, window)

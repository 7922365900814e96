"""MaskGIT dynamics over the tokenizer's codebook (arXiv 2409.06445, section 3; arXiv 2504.02515, section 3)."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from data_generation.data.errors import UNSET, FieldError
from models.components.position import ContinuousPositionBias
from models.components.st_transformer import Cache, STTransformer
from models.config import DynamicsConfig, TokenizerConfig

# Factor of the token input.
TOKEN_SCALE = 10.0
# Share of the embeddings' gradient that is kept (gradient shrink).
GRADIENT_SHARE = 0.1
# Least frames of a history that slides: those that a layer's convolution sees.
SLIDING_FRAMES = 3


class Dynamics(nn.Module):
    """Logits of the next frame's tokens from (partly masked) tokens and actions.

    Guided (GenieRedux-G): actions are ids 0..action_dim-1, concatenated to every token, embedded or one-hot
    (`action_conditioning`: or added).
    Unguided (GenieRedux): actions are latent action vectors (B, T, D), added to every token; with `latent_embeddings`
    they are ids of the `num_latent_actions`, which are embedded and added.
    """

    def __init__(
        self, config: DynamicsConfig, tokenizer_config: TokenizerConfig, guided: bool, num_latent_actions: int = 0
    ):
        super().__init__()
        if guided and not config.action_dim:
            problem = "is not set, but a guided model needs the dataset's number of actions"
            raise FieldError("action_dim", UNSET, problem, "set it")
        self.config, self.guided = config, guided
        self.action_dim = config.action_dim or 0
        self.grid = tokenizer_config.image_size // tokenizer_config.patch_size
        self.codebook_size = tokenizer_config.codebook_size
        self.action_embedding: nn.Embedding | None = None
        is_added = config.action_conditioning == "add"
        if is_added and not config.use_action_embeddings:
            raise FieldError("action_conditioning", "add", "adds embeddings", "set {use_action_embeddings}=true")
        width = config.dim
        if config.shared_positions and self.max_frames < SLIDING_FRAMES:
            held = f"{self.max_frames} frames of {self.grid**2} tokens"
            problem = f"{held} are fewer than the {SLIDING_FRAMES} that a layer sees"
            raise FieldError("max_seq_len", config.max_seq_len, problem, "raise it, or set {shared_positions}=false")
        is_embedded = config.use_action_embeddings if guided else config.latent_embeddings
        if is_embedded:
            self.action_embedding = nn.Embedding(self.action_dim if guided else num_latent_actions, config.dim)
        if guided and not is_added:
            width += config.dim if config.use_action_embeddings else self.action_dim
        # The last one is the mask token.
        self.token_embedding = nn.Embedding(self.codebook_size + 1, config.dim)
        num_positions = self.grid**2 if config.shared_positions else config.max_seq_len
        self.position_embedding = nn.Embedding(num_positions, config.dim)
        # Only models whose tokenizer has another width have weights here.
        has_other_width = self.use_token and tokenizer_config.dim != config.dim
        self.token_projection = nn.Linear(tokenizer_config.dim, config.dim) if has_other_width else nn.Identity()
        self.position_bias = ContinuousPositionBias(config.dim_head, config.heads)
        self.transformer = STTransformer(config, "st", dim=width, temporal_every=config.temporal_every)
        self.to_logits = nn.Linear(width, self.codebook_size)

    @property
    def takes_action_ids(self) -> bool:
        """Whether actions are ids and not vectors."""
        return self.guided or self.action_embedding is not None

    @property
    def use_token(self) -> bool:
        """Whether the token's code is an input too, which only the guided model has."""
        return self.guided and self.config.use_token

    @property
    def max_frames(self) -> int:
        """Longest input in frames."""
        return self.config.max_seq_len // self.grid**2

    def embed(
        self,
        ids: Tensor,
        mask: Tensor,
        actions: Tensor,
        token_input: Tensor | None,
        start: int = 0,
        surplus: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, T, h, w, width) of ids (B, T, h, w), mask (True = masked) and the actions of these frames.

        `token_input` (B, T, h, w, D): the ids' codes as wide as the tokenizer, where `use_token`. `start`: frames
        before these. `surplus` (B, T, h, w, D) is added to the ids' embeddings.
        """
        per_frame = self.grid**2
        if (start + ids.shape[1]) * per_frame > self.config.max_seq_len:
            problem = f"a history of {start + ids.shape[1]} frames of {per_frame} tokens exceeds it"
            remedy = f"use clips of at most {self.max_frames + 1} frames"
            raise FieldError("max_seq_len", self.config.max_seq_len, problem, remedy)
        positions = self.frame_positions[start : start + ids.shape[1]]
        return self.embed_at(ids, mask, actions, token_input, positions, surplus)

    @property
    def frame_positions(self) -> Tensor:
        """The position embeddings (max_frames, h, w, dim) of each frame's tokens; with `shared_positions` all alike."""
        used = self.position_embedding.weight[: self.max_frames * self.grid**2]
        positions = rearrange(used, "(t h w) d -> t h w d", h=self.grid, w=self.grid)
        return positions.expand(self.max_frames, -1, -1, -1)

    def embed_at(
        self,
        ids: Tensor,
        mask: Tensor,
        actions: Tensor,
        token_input: Tensor | None,
        positions: Tensor,
        surplus: Tensor | None = None,
    ) -> Tensor:
        """As `embed`, with the frames' position embeddings ([B,] T, h, w, dim) given."""
        x = self.token_embedding(torch.where(mask, self.codebook_size, ids)) + positions
        if surplus is not None:
            x = x + surplus
        if token_input is not None:
            x = x + TOKEN_SCALE * self.token_projection(token_input) * ~mask.unsqueeze(-1)
        x = GRADIENT_SHARE * x + (1 - GRADIENT_SHARE) * x.detach()
        vectors = actions
        if self.action_embedding is not None:
            vectors = self.action_embedding(actions)
        elif self.guided:
            vectors = F.one_hot(actions, self.action_dim).to(x.dtype)
        if not self.guided or self.config.action_conditioning == "add":
            return x + rearrange(vectors, "b t d -> b t 1 1 d")
        return torch.cat([x, repeat(vectors, "b t d -> b t h w d", h=self.grid, w=self.grid)], dim=-1)

    def expected_surplus(self, logits: Tensor, ids: Tensor, codes: Tensor | None) -> Tensor:
        """What the expected embedding of a token has more than that of its id: (..., D).

        logits (..., V), ids (...); codes (V, D): the token input of all ids, where `use_token`.
        """
        embeddings = self.token_embedding.weight[: self.codebook_size]
        if codes is not None:
            embeddings = embeddings + TOKEN_SCALE * self.token_projection(codes)
        return torch.softmax(logits.float(), dim=-1).to(embeddings.dtype) @ embeddings - F.embedding(ids, embeddings)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        actions: Tensor,
        token_input: Tensor | None = None,
        surplus: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, h, w, V); those at frame t are of the tokens of frame t + 1. Arguments as of `embed`."""
        return self.to_logits(self.features(ids, mask, actions, token_input, surplus))

    def features(
        self,
        ids: Tensor,
        mask: Tensor,
        actions: Tensor,
        token_input: Tensor | None = None,
        surplus: Tensor | None = None,
    ) -> Tensor:
        """The hidden tokens (B, T, h, w, width) from which `forward` makes its logits."""
        bias = self.position_bias(self.grid, self.grid)
        return self.transformer(self.embed(ids, mask, actions, token_input, surplus=surplus), bias)

    def extend(
        self,
        ids: Tensor,
        mask: Tensor,
        actions: Tensor,
        token_input: Tensor | None,
        cache: Cache,
        surplus: Tensor | None = None,
    ) -> tuple[Tensor, Cache]:
        """Logits (B, T, h, w, V) of further frames after those in `cache`; equal to `forward` on all frames at once."""
        bias = self.position_bias(self.grid, self.grid)
        x = self.embed(ids, mask, actions, token_input, cache.num_frames, surplus)
        x, extended = self.transformer.extend(x, bias, cache)
        return self.to_logits(x), extended

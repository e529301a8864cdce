"""Transformer layers over image positions with instance normalisation, as in DPTN.

There is no positional encoding and no dropout. Normalisation runs over the tokens of one image,
channel by channel, so a batch of one works but a single token would not.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from augment.nets.preactivation import SLOPE


class TokenNorm(nn.InstanceNorm1d):
    """Instance normalisation of each channel over the tokens, with trained scales."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(
        self,
        input: Float[Tensor, "batch tokens channels"],  # noqa: A002 - torch's name
    ) -> Float[Tensor, "batch tokens channels"]:
        """Return the normalised tokens."""
        return super().forward(input.transpose(1, 2)).transpose(1, 2).contiguous()


class Attention(nn.MultiheadAttention):
    """Multi-head attention that returns its result only.

    Torch's forward turns tokens and batch round before it projects them; a CPU then copies the
    projection's weights once per token, which took half of DPTN's forward pass.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__(channels, num_heads, batch_first=True)

    def attend(
        self,
        query: Float[Tensor, "batch tokens channels"],
        key: Float[Tensor, "batch others channels"],
        value: Float[Tensor, "batch others channels"],
    ) -> Float[Tensor, "batch tokens channels"]:
        """Return the values mixed for each query; equal to torch's own forward."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        queries, keys, values = (
            F.linear(tokens, weight, bias).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class ContextBlock(nn.Module):
    """Self-attention and a small network, each beside the identity and then normalised."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, num_heads)
        self.linear1 = nn.Linear(channels, channels)
        self.activation = nn.LeakyReLU(SLOPE)
        self.linear2 = nn.Linear(channels, channels)
        self.norm1 = TokenNorm(channels)
        self.norm2 = TokenNorm(channels)

    def forward(
        self, tokens: Float[Tensor, "batch tokens channels"]
    ) -> Float[Tensor, "batch tokens channels"]:
        """Return the tokens with context."""
        tokens = self.norm1(tokens + self.self_attn.attend(tokens, tokens, tokens))
        return self.norm2(tokens + self.linear2(self.activation(self.linear1(tokens))))


class TextureBlock(nn.Module):
    """A context block that between its halves fetches textures from elsewhere."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, num_heads)
        self.multihead_attn = Attention(channels, num_heads)
        self.linear1 = nn.Linear(channels, channels)
        self.activation = nn.LeakyReLU(SLOPE)
        self.linear2 = nn.Linear(channels, channels)
        self.norm1 = TokenNorm(channels)
        self.norm2 = TokenNorm(channels)
        self.norm3 = TokenNorm(channels)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        memory: Float[Tensor, "batch others channels"],
        textures: Float[Tensor, "batch others channels"],
    ) -> Float[Tensor, "batch tokens channels"]:
        """Return the tokens with the ``textures`` of where ``memory`` resembles them."""
        tokens = self.norm1(tokens + self.self_attn.attend(tokens, tokens, tokens))
        tokens = self.norm2(tokens + self.multihead_attn.attend(tokens, memory, textures))
        return self.norm3(tokens + self.linear2(self.activation(self.linear1(tokens))))


class PoseTransformer(nn.Module):
    """Carries textures from a source's features to a target's."""

    def __init__(self, channels: int, num_heads: int, num_context: int, num_texture: int) -> None:
        super().__init__()
        self.context = nn.ModuleList(ContextBlock(channels, num_heads) for _ in range(num_context))
        self.texture = nn.ModuleList(TextureBlock(channels, num_heads) for _ in range(num_texture))
        self.norm = TokenNorm(channels)

    def forward(
        self,
        reconstruction: Float[Tensor, "batch channels height width"],
        transfer: Float[Tensor, "batch channels height width"],
        textures: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the features of the transfer.

        Args:
            reconstruction: Features of the source seen in its own pose; the keys.
            transfer: Features of the source seen in the target pose; the queries.
            textures: Features of the source image alone; the values.
        """
        memory = _tokens(reconstruction)
        for block in self.context:
            memory = block(memory)
        tokens, values = _tokens(transfer), _tokens(textures)
        for block in self.texture:
            tokens = block(tokens, memory, values)
        return self.norm(tokens).transpose(1, 2).unflatten(2, transfer.shape[2:])


def _tokens(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2).contiguous()

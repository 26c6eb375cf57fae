"""The transformer's parts against their formulas and PyTorch's own encoder layer; the vision transformer."""

import math

import pytest
import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.models import build_model
from normbench.models.transformer import MultiHeadAttention, PositionwiseFFN, TransformerBlock
from normbench.norms import SEQUENCE_NORMS, make_norm, make_sequence_norm


def sequences(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lower_triangular(length: int) -> torch.Tensor:
    return torch.tril(torch.ones(1, length, length))


def attention_by_hand(layer: MultiHeadAttention, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d_k)) V, one sequence and one head at a time."""
    d_model = x.shape[-1]
    d_k = d_model // layer.n_head
    weights = layer.query_key_value.weight.split(d_model)
    biases = layer.query_key_value.bias.split(d_model)
    outputs = []
    for number, sequence in enumerate(x):
        heads = []
        for head in range(layer.n_head):
            rows = slice(head * d_k, (head + 1) * d_k)
            q, k, v = (sequence @ w[rows].T + b[rows] for w, b in zip(weights, biases, strict=True))
            scores = q @ k.T / math.sqrt(d_k)
            if mask is not None:
                scores = scores.masked_fill(mask[number % len(mask)] == 0, -math.inf)
            heads.append(torch.softmax(scores, dim=-1) @ v)
        outputs.append(layer.output(torch.cat(heads, dim=-1)))
    return torch.stack(outputs)


@pytest.mark.parametrize("masked", ["none", "same for all", "own", "boolean"])
def test_attention_is_the_softmax_formula(masked: str) -> None:
    layer = MultiHeadAttention(12, 3).double()
    nn.init.normal_(layer.query_key_value.bias)
    x = sequences(4, 7, 12)
    masks = {
        "none": None,
        "same for all": lower_triangular(7),
        "own": (torch.eye(7) + torch.rand(4, 7, 7, generator=torch.Generator().manual_seed(2)) > 0.5).float(),
        "boolean": lower_triangular(7).bool(),
    }
    expected = attention_by_hand(layer, x, masks[masked])
    torch.testing.assert_close(layer(x, masks[masked]), expected, rtol=1e-10, atol=1e-12)


def test_attention_never_uses_the_kernel_whose_gradients_are_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's, with 64 tokens and low scores; runs without a GPU. `test_models_transformer_cuda` sees the gradients."""
    allowed = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: torch.Tensor, **options: torch.Tensor | None) -> torch.Tensor:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    MultiHeadAttention(12, 3).double()(sequences(4, 7, 12))
    assert allowed == [False]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_causal_block_does_not_look_ahead() -> None:
    block = TransformerBlock(512, 8, norm=make_sequence_norm("ln"))
    x = sequences(32, 50, 512).float()
    y = block(x, lower_triangular(50))
    assert y.shape == (32, 50, 512)
    changed = x.clone()
    changed[:, 30:] += 1
    difference = (block(changed, lower_triangular(50)) - y).abs().amax(dim=(0, 2))
    assert difference[:30].max() < 1e-5
    assert difference[30:].min() > 1e-3


def copied_encoder_layer(block: TransformerBlock, *, pre_norm: bool) -> nn.TransformerEncoderLayer:
    """PyTorch's encoder layer with the block's weights."""
    d_model, d_ff = block.ffn.linear1.in_features, block.ffn.linear1.out_features
    layer = nn.TransformerEncoderLayer(
        d_model, block.attention.n_head, d_ff, dropout=0.0, batch_first=True, norm_first=pre_norm, dtype=torch.float64
    )
    names = {
        "attention.query_key_value.weight": "self_attn.in_proj_weight",
        "attention.query_key_value.bias": "self_attn.in_proj_bias",
        "attention.output": "self_attn.out_proj",
        "ffn.": "",
    }
    state = {}
    for name, value in block.state_dict().items():
        for own, theirs in names.items():
            if name.startswith(own):
                name = name.replace(own, theirs)
        state[name] = value
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize("pre_norm", [False, True], ids=["post", "pre"])
def test_a_block_is_pytorchs_encoder_layer(pre_norm: bool) -> None:
    block = TransformerBlock(32, 4, norm=make_sequence_norm("ln"), pre_norm=pre_norm).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    layer = copied_encoder_layer(block, pre_norm=pre_norm)
    count = sum(parameter.numel() for parameter in block.parameters())
    assert count == sum(parameter.numel() for parameter in layer.parameters())

    mask = lower_triangular(9).bool()
    for ours, theirs in ((None, None), (mask, ~mask[0])):
        x, same_x = (sequences(3, 9, 32).requires_grad_() for _ in range(2))
        y, expected = block(x, ours), layer(same_x, src_mask=theirs)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
        y.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(x.grad, same_x.grad, rtol=1e-8, atol=1e-9)


def test_parameter_count_at_the_tutorials_size() -> None:
    with torch.device("meta"):
        block, layer = TransformerBlock(512, 8, norm=make_sequence_norm("ln")), nn.TransformerEncoderLayer(512, 8, 2048)
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (block, layer)]
    assert counts == [3_152_384, 3_152_384]


def test_the_ffn_treats_each_token_by_itself() -> None:
    ffn = PositionwiseFFN(6, 10).double()
    x = sequences(2, 5, 6)
    expected = torch.relu(x[1, 3] @ ffn.linear1.weight.T + ffn.linear1.bias) @ ffn.linear2.weight.T + ffn.linear2.bias
    torch.testing.assert_close(ffn(x)[1, 3], expected)
    assert PositionwiseFFN(8).linear1.out_features == 2048


@pytest.mark.parametrize(("d_model", "n_head"), [(512, 7), (8, 0), (8, 16)])
def test_heads_that_do_not_divide_the_model_are_refused(d_model: int, n_head: int) -> None:
    with pytest.raises(ConfigError, match=rf"n_head={n_head} does not divide d_model={d_model}. Allowed: 1, 2, 4"):
        MultiHeadAttention(d_model, n_head)


@pytest.mark.parametrize("pre_norm", [False, True], ids=["post", "pre"])
@pytest.mark.parametrize("norm", SEQUENCE_NORMS)
def test_every_sequence_norm_trains_a_small_vit(norm: str, pre_norm: bool) -> None:
    torch.manual_seed(0)
    network = build_model("vit", norm=make_sequence_norm(norm), pre_norm=pre_norm, d_model=24, depth=2, n_head=2)
    images = torch.rand(3, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    loss = nn.functional.cross_entropy(network(images), torch.tensor([1, 7, 3]))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("norm", "pre_norm", "count"), [("ln", True, 2_693_194), ("ln", False, 2_692_810)])
def test_vit_parameter_count(norm: str, pre_norm: bool, count: int) -> None:
    with torch.device("meta"):
        network = build_model("vit", norm=make_sequence_norm(norm), pre_norm=pre_norm)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_same_seed_gives_all_norms_the_same_weights() -> None:
    def weights(norm: str) -> list[torch.Tensor]:
        torch.manual_seed(3)
        network = build_model("vit", norm=make_sequence_norm(norm), d_model=24, depth=2)
        return [network.position, *(m.weight for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d))]

    for ln, none in zip(weights("ln"), weights("none"), strict=True):
        assert torch.equal(ln, none)


def test_patches_are_read_in_order() -> None:
    """Token 8 r + c is made of the pixels of patch (r, c) and of nothing else."""
    network = build_model("vit", norm=make_sequence_norm("ln"), d_model=24, depth=1)
    tokens: list[torch.Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda _module, inputs: tokens.append(inputs[0]))
    images = torch.rand(2, 3, 32, 32)
    changed = images.clone()
    changed[1, 2, 4 * 5 + 1, 4 * 6 + 3] += 1
    with torch.no_grad():
        network(images)
        network(changed)
    touched = (tokens[1] - tokens[0]).abs().amax(dim=-1) > 0
    assert touched.nonzero().tolist() == [[1, 8 * 5 + 6]]


def test_norms_of_the_other_family_and_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model 'vit' takes a sequence norm: give it make_sequence_norm\('ln'\)"):
        build_model("vit", norm=make_norm("ln"))
    with pytest.raises(ConfigError, match=r"model 'resnet9' takes a norm: give it make_norm\('bn'\)"):
        build_model("resnet9", norm=make_sequence_norm("bn"))
    with pytest.raises(ConfigError, match="model 'vit': depth=0 is not allowed; it must be an integer >= 1"):
        build_model("vit", norm=make_sequence_norm("ln"), depth=0)
    with pytest.raises(ConfigError, match="model 'vit': pre_norm='no' is not allowed; it must be true or false"):
        build_model("vit", norm=make_sequence_norm("ln"), pre_norm="no")
    with pytest.raises(ConfigError, match="n_head=5 does not divide d_model=192"):
        build_model("vit", norm=make_sequence_norm("ln"), n_head=5)


def test_without_norms_pre_and_post_norm_are_one_network() -> None:
    logits = []
    for pre_norm in (True, False):
        torch.manual_seed(0)
        model = build_model("vit", norm=make_sequence_norm("none"), pre_norm=pre_norm, d_model=12, depth=2)
        logits.append(model(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))))
    assert logits[0].std() > 0
    assert torch.equal(*logits)


def test_a_block_without_a_norm_has_layer_norm() -> None:
    block = TransformerBlock(32, 4)
    assert sum(parameter.numel() for parameter in block.norm1.parameters()) == 64
    assert type(block.norm1) is type(make_sequence_norm("ln")(32))


def written_out(block: TransformerBlock, x: torch.Tensor, placement: str) -> torch.Tensor:
    """The formulas of the placements, from their papers."""
    n1, n2, attention, ffn = block.norm1, block.norm2, block.attention, block.ffn
    if placement == "post":
        x = n1(x + attention(x))
        return n2(x + ffn(x))
    if placement == "pre":
        x = x + attention(n1(x))
        return x + ffn(n2(x))
    if placement == "reordered":
        x = x + n1(attention(x))
        return x + n2(ffn(x))
    x = x + block.out_norm1(attention(n1(x)))
    return x + block.out_norm2(ffn(n2(x)))


@pytest.mark.parametrize("placement", ["pre", "post", "peri", "reordered"])
def test_norms_stand_where_the_placement_says(placement: str) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(16, 2, 32, placement=placement).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(block(x), written_out(block, x, placement))
    others = [other for other in ("pre", "post", "reordered") if other != placement]
    assert all((block(x) - written_out(block, x, other)).abs().max() > 1e-3 for other in others)


@pytest.mark.parametrize("kind", ["l2", "ln", "rms"])
def test_attention_scores_are_those_of_normalized_queries_and_keys(kind: str) -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2, qk_norm=kind).double()
    x = 30 * torch.randn(2, 5, 16, dtype=torch.float64)
    query, key, value = attention.query_key_value(x).view(2, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
    if kind == "l2":
        scores = 10 * torch.nn.functional.cosine_similarity(query[:, :, :, None], key[:, :, None], dim=-1)
    else:
        if kind == "ln":
            query, key = query - query.mean(-1, keepdim=True), key - key.mean(-1, keepdim=True)
        query, key = (part / part.square().mean(-1, keepdim=True).sqrt() for part in (query, key))
        scores = query @ key.mT / 8**0.5
    expected = attention.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)
    attention(x).sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


def test_depth_scaling_multiplies_what_the_norms_of_a_block_return() -> None:
    torch.manual_seed(0)
    plain, scaled = (
        build_model("vit", norm=make_sequence_norm("ln"), d_model=12, depth=3, n_head=2, scale_by_depth=scale)
        for scale in (False, True)
    )
    plain.load_state_dict(scaled.state_dict())
    for number, block in enumerate(plain.blocks, start=1):
        for norm in (block.norm1, block.norm2):
            norm.weight.data /= number**0.5
            norm.bias.data /= number**0.5
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(scaled(images), plain(images))


def test_options_of_placement_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"placement='mid' is not a choice.*Allowed: pre, post, peri, reordered"):
        build_model("vit", norm=make_sequence_norm("ln"), placement="mid")
    with pytest.raises(ConfigError, match="scale_by_depth needs the placement pre or peri, not post"):
        build_model("vit", norm=make_sequence_norm("ln"), pre_norm=False, scale_by_depth=True)
    with pytest.raises(ConfigError, match=r"qk_norm='l3' is not a choice. Allowed: none, l2, ln, rms"):
        MultiHeadAttention(16, 2, qk_norm="l3")


def test_peri_norm_normalizes_the_embedding_and_the_end_too() -> None:
    network = build_model("vit", norm=make_sequence_norm("rms"), placement="peri", d_model=12, depth=2, n_head=2)
    assert sum(type(module).__name__ == "TokenRMSNorm" for module in network.modules()) == 2 * 4 + 2

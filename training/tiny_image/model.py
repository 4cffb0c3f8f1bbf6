"""The parts of tiny-image, all of them stock classes of diffusers and transformers.

Together they are a PixArt-alpha pipeline: a word tokenizer, a T5 encoder of two layers, a diffusion
transformer over 4 by 4 patches of a 32 by 32 picture, and a decoder that enlarges it to 256 by 256.
"""

from typing import Any

from training.tiny_image.scenes import SIDE_PIXELS, vocabulary

SPECIAL_WORDS = PAD_WORD, END_WORD, UNKNOWN_WORD = ("<pad>", "</s>", "<unk>")
PAD, END = 0, 1
TOKENS_MAX = 24
PATCH_PIXELS = 4
TEXT_WIDTH = 96
UPSCALING = 8
TIME_SCALE = 1000
"""The transformer counts noise from 0 to this."""
LATENT_SCALE = 10.0
"""The decoder bends values with tanh(x / 3); a tenth of them passes almost straight."""


def new_tokenizer() -> Any:
    """One token a word, lower case; any other word is `<unk>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL_WORDS, *vocabulary()]
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=UNKNOWN_WORD)
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_WORD}", special_tokens=[(END_WORD, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_WORD,
        eos_token=END_WORD,
        unk_token=UNKNOWN_WORD,
        model_max_length=TOKENS_MAX,
    )


def new_text_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(SPECIAL_WORDS) + len(vocabulary()),
            d_model=TEXT_WIDTH,
            d_kv=24,
            d_ff=192,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=PAD,
            eos_token_id=END,
        )
    )


def new_transformer() -> Any:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=3,
        out_channels=3,
        num_layers=4,
        cross_attention_dim=128,
        sample_size=SIDE_PIXELS,
        patch_size=PATCH_PIXELS,
        caption_channels=TEXT_WIDTH,
        interpolation_scale=1,
        use_additional_conditions=False,
    )


def new_decoder() -> Any:
    """Enlarges a picture of 32 by 32 to 256 by 256, evenly; nothing of it is learned.

    Red, green and blue go through as numbers from 0 to 1. The encoder is never used: there is no
    smaller form of such small pictures.
    """
    import torch
    from diffusers import AutoencoderTiny

    decoder = AutoencoderTiny(
        latent_channels=3,
        encoder_block_out_channels=(3, 3, 3, 3),
        decoder_block_out_channels=(3, 3, 3, 3),
        num_encoder_blocks=(0, 0, 0, 0),
        num_decoder_blocks=(0, 0, 0, 0),
        upsample_fn="bilinear",
        scaling_factor=LATENT_SCALE,
    )
    parts = decoder.decoder.modules()
    convolutions = [part for part in parts if isinstance(part, torch.nn.Conv2d)]
    with torch.no_grad():
        for convolution in convolutions:
            torch.nn.init.dirac_(convolution.weight)
        convolutions[0].weight *= LATENT_SCALE / 2
        convolutions[0].bias[:] = 0.5
        convolutions[-1].bias[:] = 0
    return decoder


def new_scheduler() -> Any:
    """The path from noise to picture is a straight line; a second order step follows it."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=2,
        flow_shift=1.0,
    )


def text_states(encoder: Any, ids: Any, mask: Any) -> Any:
    """(batch, tokens, TEXT_WIDTH)."""
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def velocity(transformer: Any, pictures: Any, noise_share: Any, *, states: Any, mask: Any) -> Any:
    """Noise minus picture, as the model sees it. pictures (b, 3, 32, 32), noise_share (b,) 0 to 1."""
    return transformer(
        pictures,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        timestep=noise_share * TIME_SCALE,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]

"""Under which names transformers keeps the body of a model with a task head, and diffusers its parts."""

from __future__ import annotations

# The values of `base_model_prefix` in transformers 4 and 5, without those that are also ordinary submodules
# of a body (encoder, decoder, text_model, vision_model, language_model, talker, tracker_model, …): taking
# those away would make different layers look alike.
_TASK_PREFIXES = """
model transformer backbone bert roberta distilbert deberta electra albert vit gpt_neox

aimv2 align altclip audio_spectrogram_transformer beit biogpt bit blip bridgetower bros canine
chinese_clip clap clip convbert convnext convnextv2 cpmant cvt dac data2vec_audio data2vec_text
data2vec_vision decision_transformer deit depth_anything depth_pro dinat dinov2
dinov2_with_registers donut dpt edgetam edgetam_video efficientloftr efficientnet emuvideovq encodec
eomt eomt_dinov3 ernie esm esmc fastspeech2_conformer flava fnet focalnet funnel git glpn
gpt_neox_japanese groupvit gte hgnetv2 hiera hubert ibert ijepa layoutlm layoutlmv2 layoutlmv3 led
levit lightglue lilt longformer luke lw_detr_vit lxmert markuplm metaclip_2 mgp_str mimi mobilebert
mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 mpnet mra nezha nomic_bert nystromformer owlv2
owlvit perceiver pixio poolformer prompt_depth_anything prophetnet pvt pvt_v2 qdqbert rag reformer
regnet rembert resnet roberta_prelayernorm roc_bert roformer rwkv sam sam2 sam2_video sam3
sam3_video sam_hq seamless_m4t seamless_m4t_v2 segformer sew sew_d siglip siglip2 speecht5 splinter
superglue superpoint swiftformer swin swin2sr swinv2 switch_transformers tapas textnet timesformer
unispeech unispeech_sat videomae videomt vilt visual_bert vitdet vits vivit vjepa2 vlm wav2vec2
wav2vec2_bert wav2vec2_conformer wavlm x_clip xcodec xcodec2 xlm_roberta yoso zoedepth
"""
TASK_PREFIXES = frozenset(_TASK_PREFIXES.split())
"""Leading components that a model with a head has and its body alone has not."""

COMPONENTS = frozenset(
    (
        *("unet", "transformer", "transformer_2", "transformer_ref", "controlnet", "connectors", "prior"),
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
    )
)
"""The parts of a diffusers pipeline that a LoRA file names in front of its keys."""

UNET_ROOTS = frozenset(
    (
        *("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out"),
        *("time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj"),
    )
)
"""The first components of a UNet's own modules, with which files of before 0.17 and peft's folders begin."""

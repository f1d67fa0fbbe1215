"""The key of a sample: a digest of its content, by which labels are joined to it."""

from kdcore.data.document import ClassifiedText, ImageSample, Sample
from kdcore.identity import sample_key_array, sample_key_json, sample_key_text


def sample_key(sample: Sample) -> bytes:
    """The 16-byte key of a sample's content; its name has no part in it."""
    if isinstance(sample, ImageSample):
        return sample_key_array(sample.pixels)
    if isinstance(sample, ClassifiedText):
        return sample_key_json("classified", {"text": sample.text, "pair": sample.pair})
    if sample.conversation is not None:
        return sample_key_json("conversation", sample.conversation.parts())
    if sample.prompt is not None:
        prompt, completion = sample.text[: sample.prompt], sample.text[sample.prompt :]
        return sample_key_json("prompt", {"prompt": prompt, "completion": completion})
    return sample_key_text(sample.text)

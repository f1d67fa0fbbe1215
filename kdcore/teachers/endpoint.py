"""A causal language model behind an HTTP endpoint as a teacher: tokens in, the most probable tokens out."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from kdcore.config.models import TeacherEndpointConfig
from kdcore.errors import TeacherError, TeacherUnavailable
from kdcore.labels.topk import TopKCodec
from kdcore.models.tokenizer import load_tokenizer, valid_vocabulary

__all__ = ["EndpointTeacher", "Entries"]

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of T - 1 labels: ids int64 [T - 1, k] by falling mass, log-probabilities [T - 1, k], those of the tokens [T - 1]."""

_LONGEST_WAIT = 30.0
_SHOWN = 200
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the key to another host."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        """None: the redirect becomes an HTTPError."""


class EndpointTeacher:
    """A teacher that is asked over HTTP. Raises TeacherError, and TeacherUnavailable when asking again may help.

    It returns no whole distribution, so that only the codec `topk` can be made of it, with k up to top_logprobs.
    """

    kind: Literal["text"] = "text"

    def __init__(self, config: TeacherEndpointConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        self._config, self._sleep = config, sleep
        self._key = _key(config.api_key_env)
        self._opener = urllib.request.build_opener(_NoRedirects())
        self.tokenizer = load_tokenizer(config.tokenizer, None)
        self.num_classes = valid_vocabulary(self.tokenizer)

    def identity(self) -> dict[str, Any]:
        """Protocol, model name and revision: words of others that nothing checks, since no weights are at hand.

        Nothing of an answer is in it: servers whose numerics vary with their load would be refused by chance.
        """
        config = self._config
        return {"type": "endpoint", "protocol": config.protocol, "model": config.model, "revision": config.revision}

    def codec(self, k: int, bits: int = 16) -> TopKCodec:
        """The codec for k entries a label, in 16 or 8 bits; TeacherError if the endpoint is not asked for as many."""
        if k > self._config.top_logprobs:
            raise TeacherError(
                f"An endpoint gives its most probable tokens, not a whole distribution: labels.codec.k must be within "
                f"teacher.top_logprobs, {k} is more than {self._config.top_logprobs}. Set one of them."
            )
        return TopKCodec(k, self.num_classes, bits)

    def entries(self, prompt: np.ndarray) -> Entries:
        """The top_logprobs most probable tokens in place of each token of a prompt but the first, which has no context.

        TeacherError for an answer that is not whole.
        """
        request = {
            "model": self._config.model,
            "prompt": [int(token) for token in prompt],
            "prompt_logprobs": self._config.top_logprobs,
            "max_tokens": 1,
            "temperature": 0.0,
        }
        answer = self._ask(json.dumps(request).encode())
        try:
            found = answer["choices"][0]["prompt_logprobs"]
        except (KeyError, IndexError, TypeError):
            found = None
        if not isinstance(found, list) or len(found) != len(prompt) or (found and found[0] is not None):
            got = f"{len(found)} entries" if isinstance(found, list) else type(found).__name__
            raise TeacherError(
                f"An endpoint must answer with prompt_logprobs for each of {len(prompt)} tokens, the first null; got "
                f"{got}. Check that its server speaks teacher.protocol '{self._config.protocol}'."
            )
        rows = [self._row(place, found[place], int(prompt[place])) for place in range(1, len(prompt))]
        k = self._config.top_logprobs
        ids = np.array([row[0] for row in rows], np.int64).reshape(-1, k)
        return ids, np.array([row[1] for row in rows]).reshape(-1, k), np.array([row[2] for row in rows])

    def _row(self, place: int, cell: Any, token: int) -> tuple[list[int], list[float], float]:
        """The k most probable, and what the prompt's own token has, which comes beside them where it is not of them."""
        try:
            values = {int(name): float(entry["logprob"]) for name, entry in cell.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TeacherError(
                f"An endpoint must answer {{token id: {{logprob}}}} for token {place}, got {str(cell)[:_SHOWN]}. A "
                "null comes from a server that leaves out cached or chunked parts of a prompt: turn that off there."
            ) from error
        k = self._config.top_logprobs
        if len(values) < k or token not in values:
            raise TeacherError(
                f"An endpoint must answer with {k} tokens and the prompt's own ({token}) at token {place}, got "
                f"{len(values)}: {sorted(values)[:k]}. Set teacher.top_logprobs within the server's limit."
            )
        wrong = [name for name, value in values.items() if not 0 <= name < self.num_classes or not value <= 1e-3]
        if wrong:
            raise TeacherError(
                f"An endpoint must answer with log-probabilities of tokens below {self.num_classes}; token {place} has "
                f"{ {name: values[name] for name in wrong[:3]} }. Set teacher.tokenizer to the model's own."
            )
        best = sorted(values, key=lambda name: (-values[name], name))[:k]
        return best, [min(values[name], 0.0) for name in best], values[token]

    def _ask(self, body: bytes) -> Any:
        """The answer as JSON, after up to `attempts` tries."""
        failure = ""
        for attempt in range(self._config.attempts):
            if attempt:
                self._sleep(min(_LONGEST_WAIT, 0.5 * 2.0 ** (attempt - 1)))
            try:
                return json.loads(self._send(body))
            except urllib.error.HTTPError as error:
                failure = self._said(error)
                if error.code not in _PASSING:
                    raise TeacherError(
                        f"The endpoint must accept the request, it answered {failure}. Check teacher.url, "
                        "teacher.model, teacher.top_logprobs, and the key in teacher.api_key_env."
                    ) from None
            except ValueError as error:
                raise TeacherError(
                    f"The endpoint must answer in JSON, it did not: {error}. Check teacher.url."
                ) from None
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
        raise TeacherUnavailable(
            f"The endpoint {self._config.url} did not answer in {self._config.attempts} attempts; the last: {failure}. "
            "Check that it runs; set teacher.timeout_seconds or teacher.attempts for one that is slow or busy."
        )

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url = f"{self._config.url.rstrip('/')}/v1/completions"
        request = urllib.request.Request(url, body, headers)
        with self._opener.open(request, timeout=self._config.timeout_seconds) as response:
            return response.read()

    def _said(self, error: urllib.error.HTTPError) -> str:
        """Status and the beginning of the body, without the key, which a server may repeat."""
        try:
            text = error.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""
        return f"{error.code} {(text.replace(self._key, '***') if self._key else text)[:_SHOWN]}"


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    # Checked here, since the error of the HTTP library for a bad header repeats it.
    if not key or not (key.isascii() and key.isprintable()):
        state = "not one printable line" if key else "not set"
        raise TeacherError(f"The key must be in the environment variable of teacher.api_key_env; {variable} is {state}")
    return key

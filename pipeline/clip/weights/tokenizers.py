"""Tokenizers that come as files: SentencePiece's models, and the JSON of Hugging Face."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from pipeline.errors import UserError, shown

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def read_tokenizer(path: Path, length: int) -> Callable[[str], Sequence[int]]:
    """Returns what turns a sentence into at most ``length`` token numbers, without padding.

    Of SentencePiece's model the sentence is lowered before, as TIPSv2 does, in ASCII alone; the
    JSON says itself what is done.

    Raises:
        UserError: the package that reads it is not installed, or the file is damaged; later, that
            a sentence has no tokens.
    """
    try:
        if path.suffix == ".json":
            tokenizer = import_module("tokenizers").Tokenizer.from_file(str(path))
            tokenizer.no_padding()
            tokenizer.no_truncation()
        else:
            tokenizer = import_module("sentencepiece").SentencePieceProcessor(model_file=str(path))
    except ImportError as error:
        raise UserError(
            f"{path} requires the package {error.name}: install the extra backbones, or run pip"
            f" install {error.name}"
        ) from error
    except Exception as error:  # each raises errors of its own
        raise UserError(
            f"{path} is damaged or not a tokenizer ({type(error).__name__}): give the model's"
        ) from error

    def tokenize(sentence: str) -> Sequence[int]:
        try:
            if path.suffix == ".json":
                numbers = tokenizer.encode(sentence).ids
            else:
                numbers = tokenizer.encode(sentence.translate(_LOWER))
        except Exception as error:
            raise UserError(f"{path} cannot read {shown(sentence)}: give the model's") from error
        if not numbers:
            raise UserError(f"{path} has no tokens for {shown(sentence)}: give the model's")
        return numbers[:length]

    return tokenize

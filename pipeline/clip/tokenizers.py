"""Tokenizers that come as files: SentencePiece's models, and the JSON of Hugging Face."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from pipeline.errors import UserError

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


@cache
def read_tokenizer(path: Path, length: int) -> Callable[[str], Sequence[int]]:
    """Returns what turns a sentence into at most ``length`` token numbers.

    Of SentencePiece's model the sentence is lowered before, as TIPSv2 does, in ASCII alone; the
    JSON says itself what is done.

    Raises:
        UserError: the package that reads it is not installed, or the file is damaged.
    """
    try:
        if path.suffix == ".json":
            tokenizer = import_module("tokenizers").Tokenizer.from_file(str(path))
            return lambda sentence: tokenizer.encode(sentence).ids[:length]
        model = import_module("sentencepiece").SentencePieceProcessor(model_file=str(path))
    except ImportError as error:
        raise UserError(
            f"{path} requires the package {error.name}: pip install"
            f' "annotation-free-segmentation[backbones]"'
        ) from error
    except Exception as error:  # each raises errors of its own
        raise UserError(
            f"{path} is damaged or no tokenizer ({type(error).__name__}): give that of the model"
        ) from error
    return lambda sentence: model.encode(sentence.translate(_LOWER))[:length]

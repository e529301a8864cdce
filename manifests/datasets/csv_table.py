"""Reading CSV files as text, with line numbers for error messages."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from manifests.runtime.console import UserError
from manifests.runtime.files import check_file


def read_csv(path: Path, separator: str) -> pd.DataFrame:
    """Return a CSV as text without spaces around it; the index is the line number.

    Empty lines are left out.

    Raises:
        UserError: If the file is missing, empty, not UTF-8, or a line has too many fields.
    """
    check_file(path, "a CSV")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                skipinitialspace=True,
                # Keeps line numbers right for the messages.
                skip_blank_lines=False,
                index_col=False,
                encoding="utf-8-sig",
            )
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path}: the file is empty, expected a CSV") from error
    except pd.errors.ParserError as error:
        problem = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path}: {problem}") from error
    except pd.errors.ParserWarning as error:
        raise UserError(f"{path}:2: the line has more fields than the header") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a CSV ({error})") from error
    frame = frame.fillna("").apply(lambda column: column.str.strip())
    frame.index += 2
    return frame.loc[(frame != "").any(axis=1), :]

"""What is left out of a foreign suite is said by lists that cannot rot unseen."""

from pathlib import Path

import pytest
from conformance.scope import BadScope, Entry, read_scope, reason_of, stale

FOLDER = Path(__file__).resolve().parents[2] / "conformance"
LIST = """
[[out]]
reason = "501: stored"
where = ["tests/admin/*", "tests/test_a.py::*::test_method_delete*"]
"""


def test_an_entry_holds_for_every_parameter_of_a_test() -> None:
    entries = read_scope(LIST)
    assert entries == (
        Entry(("tests/admin/*", "tests/test_a.py::*::test_method_delete*"), "501: stored"),
    )
    for test in (
        "tests/admin/x/test_b.py::TestB::test_it[strict]",
        "tests/test_a.py::TestAsyncA::test_method_delete[aiohttp]",
    ):
        assert reason_of(test, entries) == "501: stored"
    assert reason_of("tests/test_a.py::TestA::test_method_create[strict]", entries) == ""


def test_a_file_is_left_out_whole_or_in_part() -> None:
    (entry,) = read_scope(LIST)
    assert entry.holds_all_of("tests/admin/deep/test_b.py")
    assert not entry.holds_all_of("tests/test_a.py")


def test_a_pattern_that_no_test_has_is_stale() -> None:
    assert stale(["tests/admin/test_b.py::test_it"], read_scope(LIST)) == [
        "tests/test_a.py::*::test_method_delete*"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[[out]]\nwhere = ['a']",
        "[[out]]\nreason = 'a'",
        "[[out]]\nreason = ''\nwhere = ['a']",
        "[[out]]\nreason = 'a'\nwhere = []",
        "[[out]]\nreason = 'a'\nwhere = 'a'",
        "[[out]]\nreason = 'a'\nwhere = ['test_a[strict]']",
        "no list",
    ],
)
def test_a_list_without_reasons_or_patterns_is_refused(text: str) -> None:
    with pytest.raises(BadScope):
        read_scope(text)


@pytest.mark.parametrize("file", sorted((FOLDER / "scopes").glob("*.toml")), ids=lambda f: f.stem)
def test_the_lists_that_we_keep_are_good_and_name_nothing_twice(file: Path) -> None:
    entries = read_scope(file.read_text())
    patterns = [pattern for entry in entries for pattern in entry.where]
    assert patterns
    assert len(patterns) == len(set(patterns))
    assert len(entries) == len({entry.reason for entry in entries})


# What must pass fully, save for single tests that the lists name.
@pytest.mark.parametrize("suite", ["openai-2", "openai-3", "anthropic"])
@pytest.mark.parametrize(
    "test",
    [
        "chat/test_completions.py::TestCompletions::test_method_create_overload_1[strict]",
        "test_completions.py::TestCompletions::test_method_create_with_all_params_overload_2[loose]",
        "test_embeddings.py::TestEmbeddings::test_method_create[loose]",
        "test_embeddings.py::TestEmbeddings::test_method_create_with_all_params[strict]",
        "test_moderations.py::TestModerations::test_method_create[strict]",
        "test_models.py::TestModels::test_method_retrieve[strict]",
        "test_models.py::TestModels::test_method_list[aiohttp]",
        "audio/test_speech.py::TestSpeech::test_method_create[strict]",
        "audio/test_transcriptions.py::TestTranscriptions::test_method_create_overload_1[strict]",
        "audio/test_translations.py::TestTranslations::test_method_create[strict]",
        "test_images.py::TestImages::test_method_generate_overload_1[strict]",
        "test_messages.py::TestMessages::test_method_create_overload_1[strict]",
        "test_messages.py::TestMessages::test_method_count_tokens_with_all_params[strict]",
        "beta/test_messages.py::TestMessages::test_method_create_overload_2[strict]",
    ],
)
def test_no_list_leaves_out_what_we_serve(suite: str, test: str) -> None:
    entries = read_scope((FOLDER / "scopes" / f"{suite}.toml").read_text())
    assert reason_of(f"tests/api_resources/{test}", entries) == ""

"""The playground's history, in IndexedDB and where the browser refuses it."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("selenium")
from selenium.webdriver import Chrome

from tests.e2e.browser import CHROMIUM, DRIVER
from tests.e2e.modules import blank_page, calling

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with blank_page(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


ENTRIES: list[dict[str, Any]] = [
    {
        "id": f"entry-{k}",
        "created": 1000 + k // 2,  # two at a time
        "settings": {
            "model": "text" if k % 3 else "digits",
            "prompt": f"A Cat number {k}" if k % 3 else None,
            "class": None if k % 3 else str(k),
            "sampler": ["ddim", "euler"][k % 2],
            "seed": k,
        },
        "url": f"images/{k}.png",
        "thumbnail": "data:image/png;base64,AAAA",
        "starred": k % 5 == 0,
        "used": {"steps": k} if k % 2 else {},
        **({"sheet": "a sheet"} if k % 3 else {}),
    }
    for k in range(12)
]
_OPEN = """const refusing = {open() { throw new DOMException('not here', 'SecurityError'); }};
const name = 'history' + Math.random();
const history = await it.History.open({name, most: args[1], ...(args[2] && {factory: refusing})});
for (const entry of args[0]) await history.put(entry);
const ids = async (...range) => (await history.search(...range)).entries.map(({id}) => id);
"""
MOST = {"count": 100, "bytes": 1 << 20}


def newest(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: (entry["created"], entry["id"]), reverse=True)


def ids_of(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["id"] for entry in newest(entries)]


@pytest.fixture(params=[False, True], ids=["indexed", "refused"])
def refused(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_pages_of_a_history_have_every_entry_once(page: Chrome, refused: bool) -> None:
    script = """const pages = [];
    let after = null;
    do {
        const page = await history.search({}, {after, limit: 5});
        pages.push(page.entries);
        after = page.next;
    } while (after);
    return {pages, reason: history.reason};"""
    found = calling(page, "history.js", _OPEN + script, ENTRIES, MOST, refused)
    assert [len(entries) for entries in found["pages"]] == [5, 5, 2]
    assert list(itertools.chain(*found["pages"])) == newest(ENTRIES)
    assert ("not here" in found["reason"]) if refused else found["reason"] is None


@pytest.mark.parametrize(
    "search",
    [
        {"words": "cat NUMBER"},
        {"words": "digits 9"},
        {"starred": True},
        {"starred": False, "sampler": "euler"},
        {"model": "text", "words": "7"},
        {"class": "3"},
        {"seed": 4},
        {"seed": 400},
    ],
)
def test_a_search_finds_what_has_all_of_it(
    page: Chrome, refused: bool, search: dict[str, Any]
) -> None:
    def matches(entry: dict[str, Any]) -> bool:
        exact, settings = dict(search), entry["settings"]
        starred = exact.pop("starred", entry["starred"])
        words = exact.pop("words", "").lower().split()
        said = " ".join(str(value) for value in settings.values() if value is not None).lower()
        return (
            starred == entry["starred"]
            and all(word in said for word in words)
            and all(settings[name] == value for name, value in exact.items())
        )

    script = _OPEN + "return ids(args[3])"
    found = calling(page, "history.js", script, ENTRIES, MOST, refused, search)
    assert found == ids_of([entry for entry in ENTRIES if matches(entry)])


def test_entries_are_starred_replaced_and_deleted(page: Chrome, refused: bool) -> None:
    script = """await history.star('entry-1', true);
    await history.star('entry-0', false);
    await history.star('nobody', true);
    await history.delete('entry-2');
    await history.delete('nobody');
    await history.put({...args[0][3], seconds: 2});
    const starred = await ids({starred: true});
    return [starred, await history.get('entry-3'), await history.get('entry-2'), await ids()];"""
    starred, third, second, ids = calling(
        page, "history.js", _OPEN + script, ENTRIES, MOST, refused
    )
    assert starred == ids_of([ENTRIES[k] for k in (1, 5, 10)])
    assert third == ENTRIES[3] | {"seconds": 2}
    assert second is None
    assert ids == ids_of([entry for entry in ENTRIES if entry["id"] != "entry-2"])


def test_the_oldest_entries_without_a_star_make_room(page: Chrome, refused: bool) -> None:
    script = _OPEN + "await history.put(args[3]); return ids()"
    last = ENTRIES[0] | {"id": "last", "created": 1, "starred": False}
    found = calling(
        page, "history.js", script, ENTRIES, {"count": 5, "bytes": 1 << 20}, refused, last
    )
    kept = [entry for entry in ENTRIES if entry["starred"]] + [ENTRIES[11]]
    assert found == [*ids_of(kept), "last"], "what is put now stays"
    again = [*ENTRIES[7:], *[ENTRIES[11]] * 5]
    found = calling(page, "history.js", _OPEN + "return ids()", again, MOST | {"count": 5}, refused)
    assert found == ids_of(ENTRIES[7:]), "what is replaced counts once"
    few = {"count": 100, "bytes": 4000}
    big = [entry | {"thumbnail": "x" * 1000} for entry in ENTRIES]
    found = calling(page, "history.js", _OPEN + "return ids()", big, few, refused)
    assert found == ids_of([big[k] for k in (5, 10, 11)])
    starred = [entry | {"starred": True} for entry in ENTRIES]
    found = calling(
        page, "history.js", _OPEN + "return ids()", starred, MOST | {"count": 2}, refused
    )
    assert found == ids_of(starred[-2:])


def test_an_export_is_read_again_and_a_stranger_is_not_trusted(page: Chrome, refused: bool) -> None:
    script = """const blob = new Blob(['abc'], {type: 'image/png'});
    if (!args[2]) await history.put({...args[0][0], thumbnail: blob});
    const text = await (await history.export()).text();
    const {History} = it;
    const other = await History.open({name: name + 'b', ...(args[2] && {factory: refusing})});
    await other.put({...args[0][1], seconds: 9});
    const counts = await other.import(text);
    return [counts, (await other.search({})).entries];"""
    counts, found = calling(page, "history.js", _OPEN + script, ENTRIES, MOST, refused)
    assert counts == {"added": 11, "skipped": 1}
    assert ids_of(found) == ids_of(ENTRIES)
    by_id = {entry["id"]: entry for entry in found}
    assert by_id["entry-1"]["seconds"] == 9, "what is kept stays"
    assert by_id["entry-0"]["thumbnail"] == f"data:image/png;base64,{'AAAA' if refused else 'YWJj'}"
    for entry in ENTRIES[2:]:
        kept = {name: value for name, value in entry["settings"].items() if value is not None}
        assert by_id[entry["id"]].items() >= (entry | {"settings": kept}).items()
    strange: list[Any] = [
        None,
        [],
        {"id": 5, "created": 1, "settings": {}},
        {"id": "x", "created": "1", "settings": {}},
        *(
            {"id": f"s{k}", "created": k, "settings": {"seed": "x", "evil": 1}, "url": url}
            for k, url in enumerate(
                ("javascript:alert(1)", "//evil.test/images/1", "http://e/images/1", "jobs/../x")
            )
        ),
        {
            "id": "t",
            "created": 9,
            "settings": {},
            "thumbnail": "data:text/html;base64,AAAA",
            "url": "/darkroom/images/abc_-.png",
            "more": {},
            "used": {"steps": "many"},
            "sheet": 7,
            "image": 1.5,
            "width": 0,
            "height": 1e9,
        },
    ]
    text = json.dumps({"format": "darkroom-history", "version": 1, "entries": strange})
    script = "return [await history.import(args[3]), (await history.search()).entries]"
    counts, found = calling(page, "history.js", _OPEN + script, [], MOST, refused, text)
    assert counts == {"added": 5, "skipped": 4}
    assert [entry["url"] for entry in found] == ["/darkroom/images/abc_-.png", *[None] * 4]
    assert not any(entry["settings"] or entry["thumbnail"] for entry in found)
    strangers = {"more", "image", "sheet", "width", "height"}
    assert not any(strangers & entry.keys() or entry.get("used") for entry in found)
    script = "try { await history.import(args[3]) } catch (error) { return error.message }"
    for other in ("", "{", "[]", "null", '{"format": "darkroom-history"}', '{"entries": []}'):
        told = calling(page, "history.js", _OPEN + script, [], MOST, refused, other)
        assert "no history" in told
    for settings, image in (
        ({"seed": 2**53}, 0),
        ({"seed": str(2**63 - 1)}, 0),
        ({"seed": 2**53 - 1}, 1),
    ):
        large = {"id": "l", "created": 1, "settings": settings, "image": image}
        text = json.dumps({"format": "darkroom-history", "version": 1, "entries": [large]})
        told = calling(page, "history.js", _OPEN + script, [], MOST, refused, text)
        assert str(2**53 - 1) in told


def test_a_history_outlives_the_page_and_its_own_loss(page: Chrome) -> None:
    script = """const history = await it.History.open({name: 'kept'});
    for (const entry of args[0]) await history.put(entry);
    return (await history.search()).entries;"""
    calling(page, "history.js", script, ENTRIES)
    page.refresh()
    assert calling(page, "history.js", script, []) == newest(ENTRIES)
    script = """const history = await it.History.open({name: 'kept'});
    const gone = indexedDB.deleteDatabase('kept'); // as when people clear the site's data
    await new Promise(resolve => { gone.onsuccess = resolve; });
    await history.put(args[0]);
    return [(await history.search()).entries, history.reason, await it.persist()];"""
    found, reason, promised = calling(page, "history.js", script, ENTRIES[0])
    assert found == ENTRIES[:1]
    assert "keeps no history" in reason
    assert isinstance(promised, bool)

"""Values that travel by name: dataclasses, pydantic models, enums, converters, and who may have which name."""

import dataclasses
import enum
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgpack
import pydantic
import pytest

from supervisors.errors import GarbledFrame, Refused, UnknownWireType, UnsupportedValue
from supervisors.wire import registered
from supervisors.wire.codec import pack, register, unpack, wire_type

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(autouse=True)
def registrations() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    by_class, by_name = dict(registered.by_class), dict(registered.by_name)
    yield
    for table, before in ((registered.by_class, by_class), (registered.by_name, by_name)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


def there_and_back(value: Any) -> Any:
    """The value as the other side gets it."""
    return unpack(pack(value))


def as_sent(name: str, state: Any) -> bytes:
    """A registered value as a peer could write it."""
    return bytes(msgpack.packb(msgpack.ExtType(14, msgpack.packb([name, state]))))


# --- dataclasses ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    start: tuple[int, int]
    end: tuple[int, int]
    tags: frozenset[str] = frozenset()
    length: float = dataclasses.field(init=False, default=0.0)


@dataclasses.dataclass
class Drawing:
    lines: list[Line]
    price: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        if self.price < 0:
            raise ValueError("a price is not negative")


def test_dataclasses_travel_with_all_their_fields() -> None:
    """Frozen, slotted, keyword-only, nested, and with fields that are no argument of the constructor."""
    wire_type(Line)
    wire_type(Drawing)
    line = Line(start=(0, 0), end=(3, 4), tags=frozenset({"a"}))
    object.__setattr__(line, "length", 5.0)
    value = {"d": Drawing([line], Decimal("1.10"))}
    back = there_and_back(value)
    assert back == value
    assert back["d"].lines[0].length == 5.0
    assert type(back["d"].lines[0].start) is tuple


def test_a_dataclass_checks_what_arrives() -> None:
    """Its constructor runs: a refused, a missing and a surplus field are errors that name the class."""
    wire_type("drawing")(Drawing)
    states: list[Any] = [{"lines": [], "price": -1}, {}, {"lines": [], "colour": 1}, [], 7, None]
    for state in states:
        with pytest.raises(GarbledFrame, match="drawing refused its state"):
            unpack(as_sent("drawing", state))
    assert unpack(as_sent("drawing", {"lines": []})) == Drawing([])  # an older sender: the default applies


def test_a_dataclass_that_forgets_its_arguments_is_refused_at_definition() -> None:
    """An `InitVar` cannot be read back from the instance."""

    @dataclasses.dataclass
    class Forgetful:
        seed: dataclasses.InitVar[int]
        total: int = 0

    with pytest.raises(TypeError, match=r"'seed', which none of its fields holds; .*to_wire="):
        wire_type(Forgetful)


def test_an_unregistered_nested_dataclass_is_named() -> None:
    """Registration does not reach into the fields."""
    wire_type(Drawing)
    with pytest.raises(UnsupportedValue, match=r"value.lines\[0\]: a value of type Line cannot travel"):
        pack(Drawing([Line(start=(0, 0), end=(1, 1))]))


def test_a_subclass_is_registered_itself() -> None:
    """It would arrive as its base otherwise."""

    @dataclasses.dataclass
    class Coloured(Drawing):
        colour: str = "red"

    wire_type(Drawing)
    with pytest.raises(UnsupportedValue, match="Coloured"):
        pack(Coloured([]))


# --- pydantic -----------------------------------------------------------------------------------------------------


class Address(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    street: str = pydantic.Field(alias="Street")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.street.upper()


class User(pydantic.BaseModel):
    name: str = pydantic.Field(validation_alias="userName", serialization_alias="user")
    age: int = pydantic.Field(ge=0)
    address: Address
    tags: set[tuple[int, ...]] = set()
    balance: Decimal = Decimal("0.10")


class Numbers(pydantic.RootModel[list[int]]):
    pass


def a_user() -> User:
    """One with every kind of field."""
    return User.model_validate(
        {"userName": "Ann", "age": 3, "address": {"Street": "Elm"}, "tags": {(1, 2)}, "balance": Decimal("1.20")}
    )


def test_pydantic_models_travel_with_aliases_and_computed_fields() -> None:
    """Nested models, two kinds of alias, computed fields beside `extra="forbid"`, root models."""
    wire_type(User)
    wire_type(Numbers)
    value = [a_user(), Numbers([1, 2])]
    back = there_and_back(value)
    assert back == value
    assert type(back[0].address) is Address
    assert type(back[0].balance) is Decimal


def test_pydantic_validates_what_arrives() -> None:
    """A state that breaks a rule of the model never becomes an instance."""
    wire_type("user")(User)
    with pytest.raises(GarbledFrame, match=r"(?s)user refused its state: ValidationError: .*greater than or equal to 0"):
        unpack(as_sent("user", {"name": "Ann", "age": -1, "address": {"street": "Elm"}}))


def test_a_field_of_a_model_that_cannot_travel_is_named() -> None:
    """The dump is made of Python values; what is none of ours is named by its field."""

    class Secret(pydantic.BaseModel):
        key: pydantic.SecretStr

    wire_type(Secret)
    with pytest.raises(UnsupportedValue, match=r"value\[0\].key: a value of type SecretStr cannot travel"):
        pack([Secret(key=pydantic.SecretStr("s"))])


def test_a_model_with_a_field_of_the_wrong_type_is_refused_by_the_sender() -> None:
    """An assignment that pydantic did not see is found before it is sent, without a warning on stderr."""
    wire_type(User)
    user = a_user()
    user.__dict__["age"] = "three"
    with pytest.raises(UnsupportedValue, match=r"value\['u'\]: a value of type User"):
        pack({"u": user})


# --- enums --------------------------------------------------------------------------------------------------------


def test_enums_travel_by_name_and_flags_by_number() -> None:
    """Members stay the same object; aliases, string enums and combined flags included."""

    class Plain(enum.Enum):
        ONE = object()
        TWO = "two"
        ZWEI = "two"  # noqa: PIE796 - an alias

    class Word(enum.StrEnum):
        A = "a"

    class Number(enum.IntEnum):
        ONE = 1

    class Bits(enum.Flag):
        R = 4
        W = 2

    class IntBits(enum.IntFlag):
        X = 1
        Y = 2

    for cls in (Plain, Word, Number, Bits, IntBits):
        wire_type(cls)
    value = [Plain.ONE, Plain.ZWEI, Word.A, Number.ONE, Bits.R | Bits.W, Bits(0), IntBits.X | IntBits.Y]
    back = there_and_back(value)
    assert back == value
    assert [type(item) for item in back] == [type(item) for item in value]
    assert back[0] is Plain.ONE
    assert there_and_back({Word.A: Number.ONE}) == {Word.A: Number.ONE}


def test_an_unknown_member_is_garbled() -> None:
    """A newer sender's member is an error, not another member."""

    class Word(enum.StrEnum):
        A = "a"

    wire_type("word")(Word)
    for state in ("B", 1, None, ["A"]):
        with pytest.raises(GarbledFrame, match="word refused its state"):
            unpack(as_sent("word", state))


# --- converters -----------------------------------------------------------------------------------------------------


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees

    def __hash__(self) -> int:
        return hash(self.degrees)


def test_any_class_travels_with_converters() -> None:
    """Also as a key, and within other values."""
    register(Celsius, to_wire=lambda value: value.degrees, from_wire=Celsius)
    assert there_and_back({Celsius(1.5): (Celsius(2), {Celsius(3)})}) == {Celsius(1.5): (Celsius(2), {Celsius(3)})}


def test_exceptions_travel_by_their_arguments() -> None:
    """The way the errors of this package survive the wire."""
    register(Refused, name="refused", to_wire=lambda error: list(error.args), from_wire=lambda args: Refused(*args))
    back = there_and_back(Refused("no", "closed", {"until": 3}))
    assert type(back) is Refused
    assert (back.message, back.code, back.details) == ("no", "closed", {"until": 3})


def test_a_typed_error_of_a_converter_is_kept() -> None:
    """A `from_wire` that raises an error of the wire family is not wrapped in another."""

    def from_wire(_state: Any) -> Any:
        raise UnknownWireType("within")

    register(Celsius, name="c", to_wire=lambda value: value.degrees, from_wire=from_wire)
    with pytest.raises(UnknownWireType, match="within"):
        there_and_back(Celsius(1))


# --- names ----------------------------------------------------------------------------------------------------------


def definition(module: str, qualname: str = "Thing") -> Any:
    """A dataclass as another execution of a `class` statement makes it."""
    made = dataclasses.make_dataclass(qualname.rpartition(".")[2], [("x", int)])
    made.__module__, made.__qualname__ = module, qualname
    return made


def test_the_default_name_is_module_and_qualified_name() -> None:
    """As written down in the documentation: it is part of the wire."""
    wire_type(Line)
    assert registered.by_class[Line].name == f"{__name__}.Line"
    assert registered.by_name[f"{__name__}.Line"].cls is Line


def test_a_class_of_a_module_run_as_main_has_the_name_of_that_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m app.models` and `import app.models` agree on the name."""
    main = types.ModuleType("__main__")
    main.__spec__ = types.SimpleNamespace(name="app.models")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    thing = definition("__main__")
    wire_type(thing)
    assert registered.by_class[thing].name == "app.models.Thing"
    main.__spec__ = None
    script = definition("__main__")
    wire_type(script)
    assert registered.by_class[script].name == "__main__.Thing"


def test_two_classes_cannot_share_a_name() -> None:
    """The error names both, and the first stays."""
    first, second = definition("app.one"), definition("app.two")
    wire_type("thing")(first)
    with pytest.raises(ValueError, match=r"'thing' names app\.one\.Thing already, so it cannot name app\.two\.Thing"):
        wire_type("thing")(second)
    assert registered.by_name["thing"].cls is first
    with pytest.raises(UnsupportedValue):
        pack(second(1))


def test_the_same_definition_may_be_registered_again() -> None:
    """After a reload: instances of the old class still travel, and arrive as the new one."""
    old, new = definition("app.models"), definition("app.models")
    wire_type(old)
    wire_type(new)
    assert type(there_and_back(new(1))) is new
    assert type(there_and_back(old(1))) is new


def test_main_imported_again_under_its_real_name_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file twice is the same definition; another file with a class of that name is not."""
    for module, file in (("__main__", "/srv/app.py"), ("app", "/srv/app.py"), ("other", "/srv/other.py")):
        made = types.ModuleType(module)
        made.__file__ = file
        monkeypatch.setitem(sys.modules, module, made)
    wire_type("thing")(definition("__main__"))
    again = definition("app")
    wire_type("thing")(again)
    assert registered.by_name["thing"].cls is again
    wire_type("main")(definition("__main__"))
    with pytest.raises(ValueError, match="'main' names"):
        wire_type("main")(definition("other"))


def test_an_old_name_is_still_understood() -> None:
    """A class under two names is sent under the newer: a rename needs no common moment."""
    register(Line, name="line.v1")
    register(Line, name="line.v2")
    line = Line(start=(0, 0), end=(1, 1))
    assert b"line.v2" in pack(line)
    assert b"line.v1" not in pack(line)
    old = pack(line).replace(b"line.v2", b"line.v1")
    assert unpack(old) == line


@pytest.mark.parametrize("cls", [int, str, list, tuple, dict, Decimal, type(None), set])
def test_what_travels_already_is_not_registered(cls: type) -> None:
    """Its converters would never be called."""
    with pytest.raises(TypeError, match="travels already"):
        register(cls, to_wire=str, from_wire=cls)


def test_what_cannot_be_registered_says_what_to_do() -> None:
    """A plain class, `@wire_type` below `@dataclass`, one converter of two, an instance."""

    class Bare:
        pass

    with pytest.raises(TypeError, match=r"put @wire_type above @dataclass, or give converters: register\(.*Bare, to_wire="):
        wire_type(Bare)
    with pytest.raises(TypeError, match="both converters"):
        register(Bare, to_wire=str)
    with pytest.raises(TypeError, match="a class or a name was expected"):
        wire_type(7)  # type: ignore[call-overload]

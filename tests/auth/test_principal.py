"""What is passed down of who asks."""

from dataclasses import fields, replace

from hpcgate.auth import Principal

WHOLE = Principal("alice", "token", {"iss": "idp"}, 17.5, "r-1", "c-1", "standing", "nightly")


def test_a_principal_with_a_requests_ids_is_the_same_in_all_else() -> None:
    assert all(getattr(WHOLE, field.name) for field in fields(Principal))
    found, expected = WHOLE.asking("r-2", "c-2"), replace(WHOLE, request_id="r-2", correlation_id="c-2")
    for field in fields(Principal):
        assert getattr(found, field.name) == getattr(expected, field.name)

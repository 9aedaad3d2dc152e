# SPDX-License-Identifier: PostgreSQL
"""The first packets: encryption requests, versions, startup parameters and options."""
import struct

import pytest

import pgwire
from fakeserver import DONE, PARAMETERS, READY, ROW, WELCOME, FakeServer
from pgwire import kinds, startup, untyped
from servers import VERSION


def request(code):
    return untyped(struct.pack("!i", code))


def test_login_answers_in_order(endpoint):
    with endpoint.raw() as conn:
        messages = conn.login("app", "p1")
        sequence = "".join(m.kind for m in messages)
        assert sequence[0] == "R"
        assert sequence.strip("S") == "R" + "S" * sequence[1:-2].count("S") + "KZ"
        for name in ("server_version", "client_encoding", "DateStyle", "TimeZone", "IntervalStyle",
                     "integer_datetimes", "standard_conforming_strings", "server_encoding",
                     "session_authorization", "is_superuser", "application_name"):
            assert name in conn.params, name
        assert conn.params["session_authorization"] == "app"
        assert conn.params["is_superuser"] == "off"
        assert len(conn.key[0]) == 4 and len(conn.key[1]) == 4
        assert messages[-1].body == b"I"


@pytest.mark.parametrize("codes", [
    [pgwire.SSL_REQUEST], [pgwire.GSSENC_REQUEST], [pgwire.GSSENC_REQUEST, pgwire.SSL_REQUEST],
    [pgwire.SSL_REQUEST, pgwire.GSSENC_REQUEST]])
def test_encryption_requests_are_declined_and_login_goes_on(proxied, codes):
    with proxied.raw() as conn:
        for code in codes:
            conn.send(request(code))
            assert conn.recv_exact(1) == b"N"
        conn.login("app", "p1")
        assert conn.value("SELECT 1") == "1"


def test_encryption_request_twice_is_refused(endpoint):
    """PostgreSQL answers the second one as an unknown protocol version."""
    with endpoint.raw() as conn:
        conn.send(request(pgwire.SSL_REQUEST))
        assert conn.recv_exact(1) == b"N"
        conn.send(request(pgwire.SSL_REQUEST))
        messages = conn.rest()
        assert kinds(messages) == "E"
        assert messages[0].fields()["C"] == "0A000"


def test_unencrypted_bytes_after_the_ssl_answer_are_accepted(endpoint):
    """The request was declined, so what follows in plain text is the login."""
    with endpoint.raw() as conn:
        conn.send(request(pgwire.SSL_REQUEST))
        assert conn.recv_exact(1) == b"N"
        assert conn.login("app", "p1")[-1].kind == "Z"


@pytest.mark.parametrize("version", [1 << 16, 2 << 16])
def test_old_major_versions_are_refused(endpoint, version):
    """PostgreSQL answers them in their own format, a text without a length."""
    with endpoint.raw() as conn:
        conn.send(startup({"user": "app", "database": "p1"}, version))
        conn.rest()
        assert b"unsupported frontend protocol" in conn.received


@pytest.mark.parametrize("version", [4 << 16, 7 << 16 | 3])
def test_other_major_versions_are_refused(endpoint, version):
    with endpoint.raw() as conn:
        conn.send(startup({"user": "app", "database": "p1"}, version))
        messages = conn.rest()
        assert kinds(messages) == "E"
        fields = messages[0].fields()
        assert fields["S"] == "FATAL" and fields["C"] == "0A000"
        assert "unsupported frontend protocol" in fields["M"]


def negotiation(messages):
    """(minor version, unknown options) of the NegotiateProtocolVersion among the messages."""
    body = [m.body for m in messages if m.kind == "v"][0]
    version, count = struct.unpack_from("!ii", body)
    names = [name.decode() for name in body[8:].split(b"\0")[:-1]]
    assert len(names) == count
    return version & 0xffff, names


def test_unknown_protocol_options_are_named(endpoint):
    with endpoint.raw() as conn:
        messages = conn.login("app", "p1", **{"_pq_.first": "1", "_pq_.second": "x"})
        assert messages[0].kind == "v"
        minor, names = negotiation(messages)
        assert minor == 0 and names == ["_pq_.first", "_pq_.second"]
        assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("minor", [3, 9999])
def test_higher_minor_version_is_negotiated(endpoint, minor):
    with endpoint.raw() as conn:
        messages = conn.login("app", "p1", version=pgwire.PROTOCOL_3_0 + minor)
        assert messages[0].kind == "v"
        offered, names = negotiation(messages)
        assert offered in (0, 2) and names == []
        assert conn.value("SELECT 1") == "1"


def test_protocol_3_2_works(endpoint):
    """Either spoken (then without negotiation) or negotiated down to 3.0."""
    with endpoint.raw() as conn:
        messages = conn.login("app", "p1", version=pgwire.PROTOCOL_3_2)
        if any(m.kind == "v" for m in messages):
            assert negotiation(messages) == (0, [])
            assert len(conn.key[1]) == 4
        else:
            assert 4 <= len(conn.key[1]) <= 256
        assert conn.value("SELECT 1") == "1"


def test_startup_parameters_become_settings(endpoint):
    with endpoint.wire(application_name="first", client_encoding="LATIN1", TimeZone="Asia/Tokyo",
                       DateStyle="German, DMY", IntervalStyle="iso_8601") as conn:
        for _ in range(3):
            assert conn.value("SHOW application_name") == "first"
            assert conn.value("SHOW client_encoding") == "LATIN1"
            assert conn.value("SHOW TimeZone") == "Asia/Tokyo"
            assert conn.value("SELECT date '2026-03-04'") == "04.03.2026"
            assert conn.value("SELECT interval '90 min'") == "PT1H30M"
        assert conn.params["TimeZone"] == "Asia/Tokyo"
        assert conn.params["client_encoding"] == "LATIN1"
        assert conn.params["application_name"] == "first"


def test_options_become_settings(endpoint):
    with endpoint.wire(options="-c TimeZone=Asia/Kolkata --DateStyle=German\\,\\ YMD "
                               "-c application_name=by\\ option") as conn:
        for _ in range(3):
            assert conn.value("SHOW TimeZone") == "Asia/Kolkata"
            assert conn.value("SHOW DateStyle") == "German, YMD"
            assert conn.value("SHOW application_name") == "by option"


def test_parameter_beats_option(endpoint):
    with endpoint.wire(options="-c application_name=option", application_name="param") as conn:
        assert conn.value("SHOW application_name") == "param"


# What a server refuses at the login.
REFUSED = {
    "unknown": {"no_such": "1"}, "unknown option": {"options": "-c no_such=1"},
    "no name": {"a b": "1"}, "no custom name": {"a.b c": "1"}, "of the packet": {"options": "-c user=x"},
    "value": {"DateStyle": "nonsense"}, "encoding": {"client_encoding": "nonsense"},
    "conversion": {"client_encoding": "MULE_INTERNAL"}, "zone": {"TimeZone": "Mars/Olympus"},
    "one of several": {"TimeZone": "UTC", "DateStyle": "German", "options": "-c work_mem=12XB"},
    "with a hint": {"client_min_messages": "loud"}, "with a detail": {"search_path": '"'},
    "range": {"statement_timeout": "-5"}, "privilege": {"options": "-c zero_damaged_pages=on"},
    "role": {"role": "nobody_at_all"}, "internal": {"block_size": "1"},
    "reported": {"server_version": "9"}, "restart": {"options": "-c max_connections=7"},
    "privilege at the start": {"log_connections": "on"},
}

# Where servers were started before, for whomever: SQLSTATE.
IN_OTHER_WORDS = {"privilege at the start": "55P02", "conversion": "0A000"}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_startup_parameters(endpoint, pg, case):
    """…are an error of the login, in the server's words, and nobody else's."""
    with pytest.raises(pgwire.LoginError) as expected:
        pgwire.Conn(pg.host, pg.port).login("app", "p1", **REFUSED[case])
    with endpoint.wire() as before:
        for _ in range(2):
            with endpoint.raw() as conn:
                with pytest.raises(pgwire.LoginError) as refused:
                    conn.login("app", "p1", **REFUSED[case])
                assert conn.rest() == []
            found = {key: refused.value.fields.get(key) for key in "SVCMDH"}
            if endpoint.kind == "transaction" and case in IN_OTHER_WORDS:
                assert found["C"] == IN_OTHER_WORDS[case]
            else:
                assert found == {key: expected.value.fields.get(key) for key in "SVCMDH"}
        assert before.value("SELECT 1") == "1"


def test_values_are_told_as_the_server_shows_them(endpoint):
    name = r"\xc3\xa4" if int(VERSION) >= 16 else "??"
    for _ in range(2):
        with endpoint.wire(DateStyle="german", client_encoding="latin-1", TimeZone="utc",
                           IntervalStyle="SQL_STANDARD", options="-c standard_conforming_strings=no",
                           application_name="ä") as conn:
            assert [conn.params[name] for name in (
                "DateStyle", "client_encoding", "IntervalStyle", "standard_conforming_strings",
                "application_name")] == ["German, DMY", "LATIN1", "sql_standard", "off", name]
            assert conn.params["TimeZone"] == "UTC"
            assert not [m for m in conn.query("SELECT 1") if m.kind == "S"]


def test_parameters_of_the_start_of_a_session(session_endpoint):
    for _ in range(2):
        with session_endpoint.wire("p1", "postgres", log_connections="on",
                                   options="-c ignore_system_indexes=on") as conn:
            assert conn.value("SHOW log_connections") == "on"
            assert conn.value("SHOW ignore_system_indexes") == "on"
    with session_endpoint.wire("p1", "postgres") as conn:
        assert conn.value("SHOW ignore_system_indexes") == "off"


def test_what_a_server_has_taken_is_not_tried_again(make_proxy):
    requests = []

    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        while (msg := peer.recv()) is not None and msg[0] == "Q":
            requests.append(msg[1][:-1].decode())
            peer.send(PARAMETERS if "DateStyle" in requests[-1] else b"", ROW, DONE, READY)
    with FakeServer(script) as server:
        proxy = make_proxy({"pg": server.check}, {"p1": "pg"}, workers=1, pool_size=1)
        for name in ("one", "two", "three"):
            proxy.wire(DateStyle="ISO, MDY", extra_float_digits="3", application_name=name).close()
        assert len(requests) == 1 and "extra_float_digits" in requests[0]


def test_no_server_to_try_it_on(make_proxy):
    """The client is let in, and told by its first request."""
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as other:
        other.query("BEGIN")
        with proxy.wire(DateStyle="nonsense") as wrong, proxy.wire(DateStyle="German") as right:
            wrong.send(pgwire.query("SELECT 1"))
            right.send(pgwire.query("SHOW DateStyle"))
            other.query("COMMIT")
            assert pgwire.errors(wrong.rest())[0]["C"] == "22023"
            assert pgwire.rows(right.ready()) == [["German, DMY"]]


def test_database_defaults_to_the_user(endpoint):
    with endpoint.raw() as conn:
        conn.send(startup({"user": "app"}))
        messages = conn.rest()
        assert messages[-1].fields()["C"] == "3D000"
        assert '"app"' in messages[-1].fields()["M"]


def test_no_user_is_refused(endpoint):
    with endpoint.raw() as conn:
        conn.send(startup({"database": "p1"}))
        messages = conn.rest()
        assert kinds(messages) == "E"
        assert messages[0].fields()["C"] == "28000"


def test_unknown_database(endpoint):
    with endpoint.raw() as conn:
        with pytest.raises(pgwire.LoginError) as error:
            conn.login("app", "no such db")
        assert error.value.sqlstate == "3D000"
        assert error.value.fields["S"] == "FATAL"
        assert error.value.fields["M"] == 'database "no such db" does not exist'
        assert conn.rest() == []


def test_startup_in_single_bytes(endpoint):
    with endpoint.raw() as conn:
        for byte in startup({"user": "app", "database": "p1", "application_name": "slow"}):
            conn.send(bytes([byte]))
        assert conn.authenticate("app")[-1].kind == "Z"


def test_query_sent_together_with_the_startup_packet(endpoint):
    """Nothing says a client must wait, if no password is asked."""
    with endpoint.raw() as conn:
        conn.send(startup({"user": "app", "database": "p1"}), pgwire.query("SELECT 7"))
        conn.ready("I")
        assert pgwire.rows(conn.ready("I")) == [["7"]]

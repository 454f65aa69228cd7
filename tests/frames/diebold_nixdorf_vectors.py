"""The worked frames of Diebold Nixdorf TSEs: what goes over the line, with its length and the begin of its SHA-256."""

from __future__ import annotations

from typing import Final, NamedTuple

ID: Final = b"11111111-2222-3333-4444-555555555555"
SIGNATURE: Final = (
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v"
    "MDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5f"
)


class Vector(NamedTuple):
    command: int
    parameters: tuple[str, ...]
    buffer: int
    """-1: answered directly."""
    length: int
    sha256: str


REQUESTS: Final = (
    Vector(0, (), -1, 47, "033367e4a27bd40d"),
    Vector(1, (), -1, 47, "b19be7061120a2ce"),
    Vector(2, (), -1, 47, "17417640ebfaf269"),
    Vector(3, ("0",), -1, 50, "067c729a7543ed5c"),
    Vector(
        4,
        (
            "1",
            "0",
        ),
        -1,
        53,
        "c80c136d751860e1",
    ),
    Vector(
        100,
        (
            "1",
            "",
        ),
        -1,
        52,
        "223df8d5dcfc639f",
    ),
    Vector(101, ("31.12.2024 23:59:58",), -1, 68, "056f984540d5d099"),
    Vector(102, (), -1, 47, "b03f1a233ad81582"),
    Vector(104, ("1",), -1, 50, "55850e7268870d55"),
    Vector(106, ("1",), -1, 50, "e955e3c0a7b05567"),
    Vector(107, ("1",), -1, 50, "fe5e63a49cd46267"),
    Vector(108, ("1",), -1, 50, "4d223d92e7670532"),
    Vector(109, ("1",), -1, 50, "e3bbf385352d8e5c"),
    Vector(112, ("1",), -1, 50, "21db531704c5f243"),
    Vector(
        200,
        (
            "0",
            "",
            "0",
        ),
        -1,
        55,
        "e5f0ec3546165e19",
    ),
    Vector(201, (), -1, 47, "1d2181009525d024"),
    Vector(
        202,
        (
            "17",
            "39",
            "Kassenbeleg-V1",
            "0",
        ),
        -1,
        74,
        "3f5ed709bbad194b",
    ),
    Vector(
        206,
        (
            "0",
            "QmVsZWdeMC4wMF8yLjU1XzAuMDBfMC4wMF8wLjAwXjIuNTU6QmFy",
        ),
        -1,
        104,
        "8a3bc88b449ec345",
    ),
    Vector(203, (), -1, 47, "6c466a5dd9a5694b"),
    Vector(
        204,
        (
            "17",
            "39",
            "Kassenbeleg-V1",
            "0",
        ),
        -1,
        74,
        "0b1f21bc7518b831",
    ),
    Vector(205, (), -1, 47, "428109efb7626045"),
    Vector(207, (), -1, 47, "d8db049bebc33a79"),
    Vector(300, ("1",), 1, 51, "dfa3a1c89164896a"),
    Vector(
        301,
        (
            "1",
            "0000000017",
            "",
        ),
        1,
        65,
        "6ab4c2819b4761af",
    ),
    Vector(
        302,
        (
            "1",
            "0000000001",
            "0000000002",
            "",
        ),
        1,
        77,
        "20d95d83afc31956",
    ),
    Vector(
        303,
        (
            "1",
            "01.01.2024 00:00:00",
            "31.12.2024 23:59:59",
            "POS001",
        ),
        1,
        101,
        "f7d77959e7f8eef9",
    ),
    Vector(304, ("1",), 1, 51, "e9044583b4fda979"),
    Vector(305, ("1",), 1, 51, "29b28cb9351c87ad"),
    Vector(
        307,
        (
            "1",
            "10240",
        ),
        -1,
        57,
        "00d9d63ec8615a40",
    ),
    Vector(308, ("1",), 1, 51, "f0e11cd4fcc6ca48"),
    Vector(309, ("1",), -1, 50, "23adc1bed3645628"),
    Vector(
        400,
        (
            "1",
            "1",
            "12345",
        ),
        -1,
        60,
        "f9851f0e90bb0d86",
    ),
    Vector(
        401,
        (
            "1",
            "1",
        ),
        -1,
        53,
        "071170307ba09e19",
    ),
    Vector(500, (), -1, 47, "10e57f062d175cb6"),
    Vector(502, ("1",), 2, 51, "4bcd481ec2a6198e"),
    Vector(504, (), -1, 47, "49c30c973cec84ff"),
    Vector(506, ("POS001",), 2, 56, "bb6024d78555620a"),
    Vector(506, (), 2, 48, "192efbac11e2f20b"),
    Vector(507, (), -1, 47, "3ace85d40582ca69"),
    Vector(508, (), -1, 47, "1698f9c958ad0c93"),
    Vector(509, ("POS001",), -1, 55, "91c5927230a36e35"),
    Vector(900, (), -1, 47, "2e72179399e3cdf3"),
)

ANSWERS: Final = (
    Vector(
        0,
        (
            "2",
            "2",
            "23",
            "64",
        ),
        -1,
        59,
        "31a0e7532ffb458e",
    ),
    Vector(
        1,
        (
            "0000",
            "01",
        ),
        -1,
        55,
        "522cda68256de4ce",
    ),
    Vector(
        1,
        (
            "0101",
            "07",
        ),
        -1,
        55,
        "e61940e347b3eb03",
    ),
    Vector(
        2,
        (
            "1",
            "7",
            "691",
            "1",
            "1",
            "497",
        ),
        -1,
        67,
        "3693f97c03c60497",
    ),
    Vector(3, (), -1, 45, "fc8d25320bde45fc"),
    Vector(100, (), -1, 45, "7e14a6f110490c54"),
    Vector(101, (), -1, 45, "1a74e439b6e08500"),
    Vector(
        102,
        (
            "6979321856",
            "6979300000",
        ),
        -1,
        69,
        "b7b164274a396d65",
    ),
    Vector(
        108,
        (
            "0A1B2C3D",
            "1",
            "1",
            "0",
            "1",
            "A",
            "0.0.0.0",
        ),
        -1,
        79,
        "fcbad5b8f52cb301",
    ),
    Vector(
        109,
        (
            "03",
            "01",
            "0",
            "0001000200010002",
            "6979321856",
            "6979300000",
            "31.12.2027 23:59:59",
            "19999000",
            "ecdsa-plain-SHA384",
            "1",
            "BSI-K-TR-0393-2020",
        ),
        -1,
        172,
        "c8368feb961287b0",
    ),
    Vector(
        109,
        (
            "03",
            "01",
            "0",
            "0001000200010002",
            "",
            "",
            "31.12.2027 23:59:59",
            "19999000",
            "ecdsa-plain-SHA384",
        ),
        -1,
        129,
        "b911ea667272432a",
    ),
    Vector(112, ("1",), -1, 48, "1463ccc87f30bcf6"),
    Vector(200, (), -1, 45, "f4b8f660ccf23373"),
    Vector(
        201,
        (
            "31.12.2024 23:59:59",
            "17",
            "R/Kf2snMH7bI/tIwvWNZ4ic6UVLmysju3En7Uy8mZg4=",
            "35",
            SIGNATURE,
        ),
        -1,
        250,
        "f3be9dccbf52b985",
    ),
    Vector(206, (), -1, 45, "f114b43ccd05884e"),
    Vector(
        203,
        (
            "31.12.2024 23:59:59",
            "36",
            SIGNATURE,
        ),
        -1,
        200,
        "037fa71315d54114",
    ),
    Vector(
        205,
        (
            "31.12.2024 23:59:59",
            "37",
            SIGNATURE,
        ),
        -1,
        200,
        "f9df6e58f3c2a71a",
    ),
    Vector(207, (), -1, 45, "148e39fc2e5df8c8"),
    Vector(307, ("1",), -1, 48, "e4dafbf6844a38a0"),
    Vector(309, (), -1, 45, "766a9d3d40be0906"),
    Vector(400, ("1",), -1, 48, "f3b5f36c5926a097"),
    Vector(401, ("1",), -1, 48, "6d4e662fb4ea6c82"),
    Vector(
        500,
        (
            "100",
            "3",
        ),
        -1,
        53,
        "055634ddc0f24d97",
    ),
    Vector(
        504,
        (
            "512",
            "0",
        ),
        -1,
        53,
        "440f8bea121221c5",
    ),
    Vector(507, ("3600",), -1, 51, "a0bda31164aca85a"),
    Vector(508, ("90000",), -1, 52, "74bab23a89dc22dd"),
    Vector(509, (), -1, 45, "102d27a391e70f65"),
)

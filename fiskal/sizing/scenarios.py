"""The ways to place queues and TSEs in a shop, compared for one shop."""

from __future__ import annotations

import msgspec

from fiskal.sizing.plan import Plan, Variant, plan, variant
from fiskal.sizing.profiles import PROFILES, Profile


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One way, with what a TSE carries there and who stops signing when something dies.

    Without a TSE a checkout goes on selling; its receipts carry no signature until a zero receipt.
    """

    name: str
    where: str
    tse: str
    tses: int
    queues: int
    variant: Variant
    if_tse_fails: str
    if_host_fails: str


def scenarios(planned: Plan, *, cloud: Profile | None = None, seed: int = 1) -> list[Scenario]:
    """Compare them for the shop that was planned.

    ``cloud`` is what a data centre would use, by default a published profile. Where no number of shared TSEs is
    enough, as many as were tried last are shown.
    """
    profile = planned.profile
    shop = msgspec.structs.replace(planned.shop, checkouts_per_queue=1)
    one_queue = msgspec.structs.replace(planned.shop, checkouts_per_queue=shop.checkouts)
    in_cloud = cloud or (profile if profile.cloud else PROFILES["fiskaly"])
    shared = (planned if planned.shop == shop else plan(shop, profile, seed=seed)).shown
    centre = plan(shop, in_cloud, seed=seed).shown
    most = shop.checkouts

    def scenario(
        name: str,
        where: str,
        placed: Variant,
        if_host_fails: str,
        *,
        tse: Profile = profile,
        queues: int = most,
    ) -> Scenario:
        hit = placed.load.checkouts
        return Scenario(
            name=name,
            where=where,
            tse=tse.title,
            tses=placed.tses,
            queues=queues,
            variant=placed,
            if_tse_fails="all without TSE" if hit == most else f"{hit} of {most} without TSE",
            if_host_fails=if_host_fails,
        )

    return [
        scenario(
            "TSE per checkout",
            "queue and SCU on every checkout",
            variant(shop, profile, most, seed=seed),
            "1 stops",
        ),
        scenario("main checkout", "SCU on one checkout, queues on all", shared, "all without TSE"),
        scenario("TSE at the server", "SCU on a server, queues on the checkouts", shared, "all without TSE"),
        scenario("terminals, a queue each", "queues and SCU on a server", shared, "all stop"),
        scenario(
            "terminals, one queue",
            "one queue and SCU on a server",
            variant(one_queue, profile, 1, seed=seed),
            "all stop",
            queues=1,
        ),
        scenario(
            "data centre",
            "queues and SCU in a data centre",
            centre,
            "all stop; so without the line",
            tse=in_cloud,
        ),
    ]

"""Old and new code of one app side by side: promise 11."""

import shutil
from dataclasses import replace

from tests.acceptance.shop import Shop
from tests.processes import eventually


async def test_an_old_worker_leaves_alone_what_only_the_new_code_knows(shop: Shop) -> None:
    """Fails with: a claim that does not ask for the worker's own triggers."""
    newer = replace(shop, folder=shop.folder / "newer")
    newer.folder.mkdir()
    source = (shop.folder / "acting.py").read_text()
    (newer.folder / "acting.py").write_text(f'{source}Trigger("bill", type_filter("order.billed"), act, retry=retry)\n')
    shutil.copymode(shop.folder / "acting.py", newer.folder / "acting.py")

    async with shop.worker(poll_interval_s=0.2) as old:
        async with newer.worker() as new:
            both = await shop.publish(*[{"sleep_s": 0.2}] * 20)
            (only_new,) = await shop.publish({}, type="order.billed")
            await newer.becomes("succeeded", only_new)
            assert newer.started(only_new)[0].pid == new.pid
            for event_id in both:
                await shop.becomes("succeeded", event_id)
        # The new code is gone again, as after a rollback: what only it knows waits, the rest goes on.
        (waiting,) = await shop.publish({}, type="order.billed")
        later = await shop.publish(*[{}] * 5)
        for event_id in later:
            await shop.becomes("succeeded", event_id)
            assert shop.started(event_id)[0].pid == old.pid
        assert (await shop.delivery(waiting)).state == "pending"
        assert old.is_running
        assert "error" not in old.log
        async with newer.worker():
            await eventually(lambda: newer.started(waiting), what="the new code's run")

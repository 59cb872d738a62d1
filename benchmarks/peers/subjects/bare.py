"""The reference: a client, a semaphore, one JSON line a cell."""

import asyncio
import json
from pathlib import Path

from client import answer
from work import CELLS, EXPECTED, messages


async def main() -> None:
    at_once = asyncio.Semaphore(64)
    with Path("out.jsonl").open("w") as out:

        async def one(model: str, prompt: str, scenario: str) -> None:
            async with at_once:
                text = await answer(model, messages(prompt, scenario))
            out.write(json.dumps([model, prompt, scenario, text, EXPECTED in text]) + "\n")

        await asyncio.gather(*(one(*cell) for cell in CELLS))


asyncio.run(main())

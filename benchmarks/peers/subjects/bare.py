"""The reference: OpenAI's client, a semaphore, one JSON line a cell."""

import asyncio
import json
from pathlib import Path

from openai import AsyncOpenAI
from work import CELLS, EXPECTED, messages


async def main() -> None:
    client, at_once = AsyncOpenAI(), asyncio.Semaphore(64)
    with Path("out.jsonl").open("w") as out:

        async def one(model: str, prompt: str, scenario: str) -> None:
            async with at_once:
                reply = await client.chat.completions.create(model=model, messages=messages(prompt, scenario))
            text = reply.choices[0].message.content
            out.write(json.dumps([model, prompt, scenario, text, EXPECTED in text]) + "\n")

        await asyncio.gather(*(one(*cell) for cell in CELLS))


asyncio.run(main())

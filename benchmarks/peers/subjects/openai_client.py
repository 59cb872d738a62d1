"""OpenAI's client, as most tools use it."""

from openai import AsyncOpenAI

client = AsyncOpenAI()


async def answer(model: str, messages: list[dict[str, str]]) -> str:
    reply = await client.chat.completions.create(model=model, messages=messages)
    return reply.choices[0].message.content

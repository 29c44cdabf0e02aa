"""What applications do with groups of aiokafka: share partitions, commit and resume."""
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

server = sys.argv[1]


async def member(**more):
    consumer = AIOKafkaConsumer(
        "jobs", bootstrap_servers=server, group_id="g", auto_offset_reset="earliest", enable_auto_commit=False,
        session_timeout_ms=3000, heartbeat_interval_ms=300, **more,
    )
    await consumer.start()
    return consumer


async def read(consumer, count):
    found = []
    while len(found) < count:
        found.append(int((await asyncio.wait_for(consumer.getone(), 20)).value))
    return sorted(found)


async def until(done):
    async def wait():
        while not done():
            await asyncio.sleep(0.01)
    await asyncio.wait_for(wait(), 20)


async def main():
    async with AIOKafkaProducer(bootstrap_servers=server) as producer:
        async def produce(values):
            for number in values:
                await producer.send_and_wait("jobs", str(number).encode())

        await produce(range(100))
        first = await member()
        assert await read(first, 100) == list(range(100))
        partition = TopicPartition("jobs", 0)
        await first.commit({partition: (100, "all of them")})
        assert await first.committed(partition) == 100
        await first.stop()
        await produce(range(100, 120))
        second, third = await member(group_instance_id="one"), await member()
        # There is one partition: one of them has it, and reads on from where the first was.
        await until(lambda: len(second.assignment()) + len(third.assignment()) == 1)
        owner, other = (second, third) if second.assignment() else (third, second)
        assert await read(owner, 20) == list(range(100, 120))
        await owner.commit()
        await other.stop()
        await produce([120])
        assert await read(owner, 1) == [120]
        await owner.stop()


asyncio.run(main())

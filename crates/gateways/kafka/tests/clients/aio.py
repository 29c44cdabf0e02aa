"""What applications do with aiokafka: produce in every compression, consume without a group."""
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

server = sys.argv[1]


async def main():
    values = []
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        settings = {"compression_type": codec, "acks": "all", "enable_idempotence": codec != "gzip"}
        async with AIOKafkaProducer(bootstrap_servers=server, **settings) as producer:
            for number in range(100):
                value = f"{codec} {number} ".encode() * 10
                values.append(value)
                sent = await producer.send("orders", value, key=b"k", headers=[("h", b"x")])
            assert (await asyncio.wait_for(sent, 20)).offset == len(values) - 1
    async with AIOKafkaConsumer(bootstrap_servers=server) as consumer:
        partition = TopicPartition("orders", 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        found = [await asyncio.wait_for(consumer.getone(), 20) for _ in values]
        assert [record.value for record in found] == values
        assert [record.offset for record in found] == list(range(500))
        assert found[321].headers == (("h", b"x"),) and found[321].key == b"k"
        consumer.seek(partition, 333)
        assert (await asyncio.wait_for(consumer.getone(), 20)).offset == 333
        assert (await consumer.end_offsets([partition]))[partition] == 500
        times = await consumer.offsets_for_times({partition: found[400].timestamp})
        first = next(record.offset for record in found if record.timestamp >= found[400].timestamp)
        assert times[partition].offset == first


asyncio.run(main())

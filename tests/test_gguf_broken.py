"""GGUF headers that are broken or hostile: each is refused with its reason, in bounded time and memory."""

import struct
import time
import tracemalloc

import pytest

from quantspace.errors import ModelUnsupported
from quantspace.hub.gguf_header import MAX_TENSORS, parse_header
from quantspace.hub.gguf_values import HEADER_BYTES
from tests.gguf_bytes import CountingBytes, built, key, parsed, sample, tensor, text

HUGE = 2**63
BROKEN = {
    "empty": (b"", "ends within its own header"),
    "another format": (b"PK\3\4" + bytes(100), "not a GGUF file"),
    "one byte of magic": (b"G", "ends within its own header"),
    "version 1": (built(version=1), "version 1;"),
    "version 99": (built(version=99), "version 99;"),
    "version 0": (built(version=0), "version 0;"),
    "2^63 tensors": (built(counts=(HUGE, 0)), "tensors"),
    "2^63 keys": (built(counts=(0, HUGE)), "keys"),
    "more tensors than the file has room for": (built(counts=(90_000, 0)), "tensors"),
    "tensors that are not there": (built(counts=(100, 0)), "names a tensor with 0 bytes"),
    "keys that are not there": (built(counts=(0, 100)), "names a key with 0 bytes"),
    "key of 2^63 bytes": (built(keys=[struct.pack("<Q", HUGE)]), "names a key"),
    "text of 2^63 bytes": (built(keys=[key(kind=8, value=struct.pack("<Q", HUGE))]), "bytes of one text"),
    "array of 2^63 numbers": (built(keys=[key(kind=9, value=struct.pack("<IQ", 0, HUGE))]), "values of one array"),
    "array of 2^63 texts": (built(keys=[key(kind=9, value=struct.pack("<IQ", 8, HUGE))]), "values of one array"),
    "array of arrays": (built(keys=[key(kind=9, value=struct.pack("<IQ", 9, 1) * 50)]), "array of arrays"),
    "text in an array longer than the file": (
        built(keys=[key(kind=9, value=struct.pack("<IQ", 8, 2) + text(b"a") + struct.pack("<Q", 2**40))]),
        "bytes of one text",
    ),
    "text in a long array longer than the file": (
        built(keys=[key(kind=9, value=struct.pack("<IQ", 8, 3000) + struct.pack("<Q", 2**62))], data=50_000),
        "ends within its own header",
    ),
    "type of value 77": (built(keys=[key(kind=77)]), "type 77"),
    "type of value in an array 77": (built(keys=[key(kind=9, value=struct.pack("<IQ", 77, 1))]), "type 77"),
    "key that is no text": (built(keys=[key(name=b"\xff\xfe")]), "no text"),
    "key twice": (built(keys=[key(), key()]), "key k twice"),
    "alignment 0": (built(keys=[key(b"general.alignment", 4, bytes(4))]), "power of two"),
    "alignment 48": (built(keys=[key(b"general.alignment", 4, struct.pack("<I", 48))]), "power of two"),
    "alignment 2^31": (built(keys=[key(b"general.alignment", 4, struct.pack("<I", 2**31))]), "power of two"),
    "alignment that is text": (built(keys=[key(b"general.alignment", 8, text(b"32"))]), "power of two"),
    "tensor with a long name": (built([tensor(name=b"n" * 2000)]), "names a tensor"),
    "tensor twice": (built([tensor(), tensor(offset=128)]), "tensor t twice"),
    "5 dimensions": (built([tensor(dims=(1, 1, 1, 1, 1))]), "5 dimensions"),
    "2^32 - 1 dimensions": (built([tensor(claimed=2**32 - 1)]), "dimensions"),
    "dimension 0": (built([tensor(dims=(32, 0))]), "can't hold"),
    "2^63 values": (built([tensor(dims=(2**32, 2**32))]), "can't hold"),
    "row that is no whole block": (built([tensor(dims=(33,), kind=2)]), "Q4_0 can't hold"),
    "type 200": (built([tensor(kind=200)]), "type 200"),
    "type that was removed": (built([tensor(kind=4)]), "type 4"),
    "offset beyond the file": (built([tensor(offset=2**40)]), "ends before the end of t"),
    "offset of 2^64 - 32": (built([tensor(offset=2**64 - 32)]), "ends before the end of t"),
    "offset not aligned": (built([tensor(offset=1)]), "multiple of 32"),
    "tensors over each other": (built([tensor(dims=(64,)), tensor(b"u", offset=32)]), "u over the tensor"),
    "tensor longer than the file": (built([tensor(dims=(2**20,))]), "ends before the end of t"),
}  # fmt: skip


class TestHostileFiles:
    @pytest.mark.parametrize(("data", "said"), BROKEN.values(), ids=BROKEN)
    def test_broken_file_is_refused_with_its_name_and_the_reason(self, data, said):
        with pytest.raises(ModelUnsupported) as caught:
            parsed(data)
        assert caught.value.message.startswith("model.gguf ")
        assert said in caught.value.message
        assert caught.value.hint

    def test_file_that_ends_anywhere_in_its_header_is_refused(self):
        data = sample()
        whole = parsed(data).data_at
        for end in range(whole):
            with pytest.raises(ModelUnsupported):
                parsed(data[:end])

    def test_header_without_end_is_given_up_after_its_limit(self):
        size = 40 * 10**9
        endless = built(keys=[key(kind=9, value=struct.pack("<IQ", 8, 10**9))], counts=(1, 1), data=0)
        source = CountingBytes(endless + bytes(2 * HEADER_BYTES))
        started = time.monotonic()
        with pytest.raises(ModelUnsupported, match="no more of it is read"):
            parse_header(source, size, "model.gguf")
        assert source.read <= HEADER_BYTES
        assert time.monotonic() - started < 5

    def test_most_tensors_that_are_allowed_take_little_time_and_memory(self):
        tensors = [tensor(str(n).encode(), (1,), 24, 32 * n) for n in range(MAX_TENSORS)]
        data = built(tensors, data=32 * MAX_TENSORS)
        started = time.monotonic()
        assert len(parsed(data).tensors) == MAX_TENSORS
        assert time.monotonic() - started < 5
        tracemalloc.start()
        parsed(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        tracemalloc.stop()

    def test_one_tensor_more_is_refused(self):
        data = built(counts=(MAX_TENSORS + 1, 0), data=100 * MAX_TENSORS)
        with pytest.raises(ModelUnsupported, match="tensors, more than"):
            parsed(data)

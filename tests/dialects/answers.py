"""Streamed answers as providers write them, cut into any pieces, and what a client makes of a stream; shapes from the API reference."""

import json

import httpx2
from openai import OpenAI, omit
from openai._streaming import Stream
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent

CHAT_REQUEST = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}'
RESPONSES_REQUEST = b'{"model":"m","input":"Hi","stream":true}'
DONE = b"data: [DONE]\n\n"


def data(payload):
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def named(kind, **payload):
    return f"event: {kind}\n".encode() + data({"type": kind, **payload})


def chat_usage(given, made):
    details = {"prompt_tokens_details": {"cached_tokens": given // 2}, "completion_tokens_details": {"reasoning_tokens": made}}
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made, **details}


def chunk(delta, finish=None, *, name="one", **more):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "created": len(name), "model": f"m-{name}"}
    return data({**head, "system_fingerprint": f"fp_{name}", "choices": [choice], **more})


def chat(pieces, *, name="one", finish="stop", usage=None, thoughts=()):
    """The events of a whole answer: role, thoughts, one chunk per piece, finish, usage if it is told, terminator."""
    out = [chunk({"role": "assistant", "content": "", "refusal": None}, name=name)]
    out += [chunk({"reasoning_content": thought, "content": None}, name=name) for thought in thoughts]
    out += [chunk({"content": piece}, name=name) for piece in pieces]
    out.append(chunk({}, finish, name=name))
    if usage:
        out.append(data({"id": f"chatcmpl-{name}", "created": 9, "model": "m", "choices": [], "usage": chat_usage(*usage)}))
    return [*out, DONE]


def responses(pieces, *, name="one", status="completed", usage=(1, 1), thoughts=(), calls=()):
    """The events of a whole response: thoughts in an item of their own, the message, tool calls behind it."""
    text = "".join(pieces)
    out = []

    def event(kind, **values):
        out.append(named(kind, sequence_number=len(out), **values))

    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": f"msg_{name}", "status": "completed", "role": "assistant", "content": [part]}
    summary = [{"type": "summary_text", "text": "".join(thoughts)}]
    thought = {"type": "reasoning", "id": f"rs_{name}", "summary": summary}
    head = {"id": f"resp_{name}", "object": "response", "created_at": len(name), "model": f"m-{name}", "tools": [], "error": None}
    head |= {"parallel_tool_calls": True, "tool_choice": "auto", "status": "in_progress", "output": [], "usage": None}
    event("response.created", response=head)
    event("response.in_progress", response=head)
    output = []
    if thoughts:
        at = {"output_index": 0, "item_id": thought["id"], "summary_index": 0}
        event("response.output_item.added", output_index=0, item=thought | {"summary": []})
        event("response.reasoning_summary_part.added", **at, part={"type": "summary_text", "text": ""})
        for piece in thoughts:
            event("response.reasoning_summary_text.delta", **at, delta=piece)
        event("response.reasoning_summary_text.done", **at, text="".join(thoughts))
        event("response.reasoning_summary_part.done", **at, part=summary[0])
        event("response.output_item.done", output_index=0, item=thought)
        output.append(thought)
    at = {"item_id": message["id"], "output_index": len(output), "content_index": 0}
    event("response.output_item.added", output_index=len(output), item=message | {"status": "in_progress", "content": []})
    event("response.content_part.added", **at, part=part | {"text": ""})
    for piece in pieces:
        event("response.output_text.delta", **at, delta=piece, logprobs=[])
    event("response.output_text.done", **at, text=text, logprobs=[])
    event("response.content_part.done", **at, part=part)
    event("response.output_item.done", output_index=len(output), item=message)
    output.append(message)
    for number, arguments in enumerate(calls):
        call = {"type": "function_call", "id": f"fc_{name}{number}", "call_id": f"call_{name}{number}", "name": "f"}
        at = {"output_index": len(output), "item_id": call["id"]}
        event("response.output_item.added", output_index=len(output), item=call | {"arguments": "", "status": "in_progress"})
        event("response.function_call_arguments.delta", **at, delta=arguments)
        event("response.function_call_arguments.done", **at, name="f", arguments=arguments)
        done = call | {"arguments": arguments, "status": "completed"}
        event("response.output_item.done", output_index=len(output), item=done)
        output.append(done)
    tokens = {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
    event(f"response.{status}", response=head | {"status": status, "output": output, "usage": tokens})
    return out


def payloads(stream):
    """The data of a stream's events, read as simply as can be; `[DONE]` stays a string."""
    found = []
    for event in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            text = b"\n".join(lines).decode()
            found.append(text if text == "[DONE]" else json.loads(text))
    return found


def whole(text):
    """The text as a reader in UTF-16 has it after putting pieces together."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def said(stream):
    """The text of a stream of either kind, as its deltas say it."""
    pieces = []
    for payload in payloads(stream):
        if isinstance(payload, dict):
            if payload.get("type") == "response.output_text.delta":
                pieces.append(payload["delta"])
            pieces += [choice["delta"].get("content") or "" for choice in payload.get("choices", ())]
    return whole("".join(pieces))


def _parsed(stream, cast_to):
    response = httpx2.Response(200, content=stream, request=httpx2.Request("POST", "http://gateway/v1"))
    with OpenAI(api_key="k", base_url="http://gateway/v1") as client:
        return list(Stream(cast_to=cast_to, response=response, client=client))


def sdk_chat(stream):
    """The official SDK's chunks, and the answer that its accumulator makes of them."""
    chunks, state = _parsed(stream, ChatCompletionChunk), ChatCompletionStreamState()
    for one in chunks:
        state.handle_chunk(one)
    return chunks, state.get_final_completion()


def sdk_responses(stream):
    """The official SDK's events after its accumulator, which refuses items that change or stay open; the last has the response."""
    state = ResponseStreamState(input_tools=[], text_format=omit)
    return [made for event in _parsed(stream, ResponseStreamEvent) for made in state.handle_event(event)]

import dataclasses


@dataclasses.dataclass
class GenerateReqInput:
    input_ids: list[int] | None = None
    sampling_params: dict | None = None
    stream: bool = False
    extra_key: str | None = None


@dataclasses.dataclass
class TokenizedGenerateReqInput:
    rid: str | None = None
    input_ids: list[int] | None = None
    sampling_params: object = None
    extra_key: str | None = None


@dataclasses.dataclass
class BatchTokenIDOut:
    rids: list[str]
    finished_reasons: list
    output_routed_experts: list | None = None


@dataclasses.dataclass
class BatchStrOut:
    rids: list[str]
    finished_reasons: list
    output_routed_experts: list | None = None

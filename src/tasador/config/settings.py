from __future__ import annotations
from dataclasses import dataclass, field
from tasador.data.contract import TableContract
from tasador.features.plan import FeatureSettings
from tasador.selection.search import SelectionSettings
from tasador.selection.sweep import SweepSettings
@dataclass(frozen=True)
class DownloadSettings:
    search: list[str] = field(default_factory=list); allow_synthetic: bool=True; timeout_s: float=15.0; attempts: int=2; offline: bool=False; synthetic_rows: int|None=None
@dataclass(frozen=True)
class SegregateSettings:
    method: str="random"; seed: int=42; test_share: float=.2; max_refused_share: float=.05; min_rows: int=100
@dataclass(frozen=True)
class ImputeSettings:
    strategy: str="median"
@dataclass(frozen=True)
class RegisterSettings:
    spatial_folds: int=5; coverage: float=.9; parity_rows: int=200000; bootstrap_draws: int=1000; alias: str="staging"
@dataclass(frozen=True)
class StorageSettings:
    workspace: str="workspace"
@dataclass(frozen=True)
class TrackingSettings:
    enabled: bool=True; uri: str|None=None; experiment: str="tasador"
@dataclass(frozen=True)
class RunSettings:
    contract: TableContract
    seed: int=42
    profile: str="quick"
    download: DownloadSettings=DownloadSettings()
    segregate: SegregateSettings=SegregateSettings()
    impute: ImputeSettings=ImputeSettings()
    features: FeatureSettings=FeatureSettings()
    selection: SelectionSettings=SelectionSettings()
    sweep: SweepSettings=SweepSettings()
    register: RegisterSettings=RegisterSettings()
    storage: StorageSettings=StorageSettings()
    tracking: TrackingSettings=TrackingSettings()
    steps: list[str]=field(default_factory=list)
    from_step: str|None=None
    force: bool=False

"""PEFT adapters, decided without torch: which base they stand on, and where each of their tensors goes."""

from uncrate.adapters.base import Stacked, follow_base
from uncrate.adapters.match import AdapterPlan, LoraModule, adapter_name, plan_adapter

__all__ = ["AdapterPlan", "LoraModule", "Stacked", "adapter_name", "follow_base", "plan_adapter"]

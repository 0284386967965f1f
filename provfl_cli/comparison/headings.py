"""What metrics are called at the head of a column, where their own name would not do."""

HEADINGS = {
    "lds": "LDS",
    "spearman_retrain": "Spearman, retrained",
    "top1_retrain": "top-1, retrained",
    "lds_seed_ceiling": "LDS of another seed",
    "lds_datamodel": "LDS of a datamodel",
    "caused_accuracy": "caused: accuracy",
    "spearman_withhold": "same-round fusion, withheld",
    "spearman_refuse": "same-round fusion, without",
    "localization_accuracy": "holds label (saturates)",
    "majority_accuracy": "majority",
    "chance_corrected": "corrected",
    "fault_accuracy": "fault accuracy",
    "attack_success": "backdoor works",
    "attack_success_untriggered": "without trigger",
    "clean_twin_accuracy": "clean twin",
    "owner_top1": "owner on top",
    "owners_found": "all owners found",
    "owner_auroc": "AUROC over clients",
    "owner_share": "owners' share",
    "other_share": "others' share",
    "token_top1": "tokens: owner on top",
    "span_top1": "planted tokens",
    "rest_top1": "other tokens",
    "span_precision": "planted, of named tokens",
    "span_auroc": "planted tokens: AUROC",
    "ndcg": "NDCG",
    "spearman_counts": "Spearman",
    "conservation_residual": "residual",
}

ROUND, LINEAGE = "round", "lineage"  # scopes


def name_of_method(method: str, scope: str) -> str:
    """A method as a row is called: what looks at all rounds says so."""
    return method if scope != LINEAGE or method.startswith(LINEAGE) else f"{LINEAGE} {method}"

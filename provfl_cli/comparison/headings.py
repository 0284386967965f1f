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
    "ndcg": "NDCG",
    "spearman_counts": "Spearman",
    "conservation_residual": "residual",
}

"""What the quality audits share: matched samples, classifiers, their scores, and findings."""

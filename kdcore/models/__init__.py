"""Networks and their tokenizers, built or loaded; teachers and students are both made here."""

def with_options(question, options):
    if not options: return question
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options))
    return f"{question}\n{listed}\nAnswer with the option's letter from the given choices directly."

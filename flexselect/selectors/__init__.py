"""The small trained model that ranks visual tokens as the VideoLLM's reference layer does."""

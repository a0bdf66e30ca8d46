"""The public interface behind `import polymodal as pm`."""
